"""The tools that a line offers, the calls that its assistant makes, and the answers of the tools."""

from __future__ import annotations

import json
import re
from typing import Any

from app import strict_json
from app.dataset import schema
from app.dataset.look import Look
from app.dataset.source import kind, mistake, shown
from app.dataset.summary import count
from app.errors import cut, did_you_mean

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def offered(look: Look, tools: Any) -> None:
    """Look at the tools of a line, and keep their schemas for its calls."""
    if tools is None:
        return
    if not isinstance(tools, list) or not tools:
        look.bad("tools", f"is {shown(tools)}; it must be a list of tools, or left out")
        return
    look.tools = {}
    for i, tool in enumerate(tools):
        _tool(look, tool, f"tools[{i}]")


def _tool(look: Look, tool: Any, where: str) -> None:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict) or tool.get("type") != "function":
        look.bad(where, f"is {shown(tool)}; a tool is {{'type': 'function', 'function': {{'name': ..., 'parameters': ...}}}}")
        return
    look.text(json.dumps(tool, ensure_ascii=False), "tool", where)
    name = _name(look, function.get("name"), f"{where}.function.name")
    parameters = function.get("parameters")
    faults = [] if parameters is None else list(schema.faults(parameters, f"{where}.function.parameters"))
    look.problems += faults
    for key in function:
        if key not in ("name", "description", "parameters", "strict"):
            look.bad(f"{where}.function.{key[:60]}", "is no key of a function (known: name, description, parameters, strict)")
    if name is None or look.tools is None:
        return
    if name in look.tools:
        look.bad(f"{where}.function.name", f"names {name!r} a second time; a line has each tool once")
    look.tools[name] = None if faults else parameters
    count(look.counts.tools, name)
    for keyword in () if faults else schema.unchecked(parameters):
        count(look.counts.unchecked, keyword[:60])


def _name(look: Look, name: Any, where: str) -> str | None:
    if isinstance(name, str) and _NAME.fullmatch(name):
        return name
    look.bad(where, f"is {shown(name)}; a name is 1 to 64 letters, digits, '_' and '-'")
    return None


def made(look: Look, calls: Any, where: str, *, one_call: bool) -> None:
    """Look at the calls of one message."""
    if not isinstance(calls, list) or not calls:
        look.bad(where, f"is {shown(calls)}; it must be a list of calls, or left out")
        return
    if one_call and len(calls) > 1:
        look.bad(where, f"holds {len(calls)} calls, and parallel_tool_calls is false")
    for i, call in enumerate(calls):
        _call(look, call, f"{where}[{i}]")


def _call(look: Look, call: Any, where: str) -> None:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or call.get("type") != "function":
        right = "{'id': ..., 'type': 'function', 'function': {'name': ..., 'arguments': ...}}"
        look.bad(where, f"is {shown(call)}; a call is {right}")
        return
    id_ = call.get("id")
    if not isinstance(id_, str) or not id_:
        look.bad(f"{where}.id", f"is {shown(id_)}; it must be a text that names the call")
    elif id_ in look.calls:
        look.bad(f"{where}.id", f"names {id_[:60]!r} a second time; each call of a line has an id of its own")
    else:
        look.calls[id_] = False
    name = _name(look, function.get("name"), f"{where}.function.name")
    if name is not None:
        count(look.counts.calls, name)
        _known(look, name, f"{where}.function.name")
    _arguments(look, function.get("arguments"), name, f"{where}.function.arguments")


def _known(look: Look, name: str, where: str) -> None:
    if look.tools is None:
        if look.strict:
            look.bad(where, f"calls {name!r}, and the line offers no tools; add the schema under 'tools'")
    elif name not in look.tools:
        listed = ", ".join(look.tools) or "none"
        look.bad(where, f"calls {name!r}, which is not among the line's tools{did_you_mean(name, look.tools)} (known: {listed})")


def _arguments(look: Look, arguments: Any, name: str | None, where: str) -> None:
    if not isinstance(arguments, str):
        hint = f", such as {shown(shown(arguments))}" if isinstance(arguments, dict) else ""
        look.bad(where, f"is {kind(arguments)}; it must be a JSON object as a text{hint}")
        return
    look.text(arguments, "assistant", where)
    try:
        value = strict_json.read(arguments)
    except ValueError as error:
        why = _why(error)
        look.bad(where, f"is {cut(arguments)}, which is not JSON: {why}")
        return
    if not isinstance(value, dict):
        look.bad(where, f"is {cut(arguments)}, which is {kind(value)}; it must be a JSON object as a text")
        return
    parameters = (look.tools or {}).get(name or "")
    if parameters is not None:
        look.problems += schema.misfits(value, parameters, where)


def _why(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return mistake(error)
    return f"it {error}" if isinstance(error, strict_json.NotStrict) else str(error)


def answered(look: Look, id_: Any, where: str) -> None:
    """Look at the ``tool_call_id`` of a tool's message."""
    if not isinstance(id_, str) or not id_:
        look.bad(where, f"is {shown(id_)}; it must be the id of the call that is answered")
    elif id_ not in look.calls:
        known = ", ".join(look.calls) or "none"
        look.bad(
            where,
            f"answers {id_[:60]!r}, and no call before has this id (known: {known[:120]})",
        )
    elif look.calls[id_]:
        look.bad(where, f"answers {id_[:60]!r} a second time; each call has one answer")
    else:
        look.calls[id_] = True
