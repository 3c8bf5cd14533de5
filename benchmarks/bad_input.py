"""What synthq says to input that cannot be right: ``python -m benchmarks.bad_input [> docs/bad-input.md]``.

Starts a synthq of its own (a private home, a free port, no workers), gives the real command line and the real API one wrong
thing after another, and prints a Markdown table of what came back. Each answer is held to the promises: the exit code or status
that was foreseen, a sentence, no traceback, nothing on stdout, no job stored and none lost. Exits 1 when one does not hold.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.system import free_port, scratch

COMMAND = "python -m benchmarks.bad_input"
SYNTHQ = [sys.executable, "-m", "cli.main"]
REPOSITORY = Path(__file__).resolve().parent.parent
AT_ONCE = 2

FILES: dict[str, bytes] = {
    "empty.toml": b"",
    "latin1.toml": b'name = "caf\xe9"\n[eval]\nseeds = "0"\n',
    "twice.toml": b'[eval]\nseeds = "0"\nseeds = "1"\n',
    "open.toml": b'[eval\nseeds = "0"\n',
    "typo.toml": b'[eval]\nseed = "0"\n',
    "table.toml": b'[evl]\nseeds = "0"\n',
    "nan.toml": b'[eval]\nseeds = "0"\ntemperature = nan\n',
    "huge.toml": b'[eval]\nseeds = "0"\nmax_turns = ' + b"9" * 5000 + b"\n",
    "bomb.toml": b"x = " + b"[" * 100_000 + b"]" * 100_000,
    "large.toml": b'[eval]\nseeds = "0"\n#' + b"x" * 1_000_000,
    "both.toml": b'[eval]\nseeds = "0"\n[filter]\njobs = ["a"]\n',
    "many.toml": b'[eval]\nseeds = "0-2000000"\n',
}
"""Spec files that cannot be right."""

EVAL = "submit eval --seeds 0"
LINES: list[tuple[str, int]] = [
    ("", 2),
    ("sumbit eval", 2),
    ("submit", 2),
    ("submit evl", 2),
    ("submit eval", 2),
    ("submit eval nowhere.toml", 2),
    ("submit eval ''", 2),
    ("submit eval .", 2),
    *((f"submit eval {name}", 2) for name in FILES),
    ("submit eval --seeds 9-0", 2),
    ("submit eval --seeds 99999999999", 2),
    ("submit eval --seeds x", 2),
    (f"{EVAL} --policy random,random", 2),
    (f"{EVAL} --policy ''", 2),
    (f"{EVAL} --set foo", 2),
    (f"{EVAL} --set eval.foo=1", 2),
    (f"{EVAL} --set eval.max_turns=abc", 2),
    (f"{EVAL} --set eval.max_turns=0", 2),
    (f"{EVAL} --set eval=1", 2),
    (f"{EVAL} --policy-config '{{'", 2),
    (f"{EVAL} --policy-config '{{\"top_p\": NaN}}'", 2),
    (f"{EVAL} --name 'a b'", 2),
    (f"{EVAL} --name @last", 2),
    (f"{EVAL} --name {'x' * 300}", 2),
    (f"{EVAL} --name 'a\x1b[31m'", 2),
    (f"{EVAL} --label foo", 2),
    (f"{EVAL} --label 'ключ=1'", 2),
    (f"{EVAL} --priority 99999", 2),
    (f"{EVAL} --after foo", 2),
    (f"{EVAL} --after ok:nobody", 3),
    (f"{EVAL} --after ok:cancelled", 5),
    (f"{EVAL} --idempotency-key 'a é'", 2),
    (f"{EVAL} --idempotency-key used", 5),
    (f"{EVAL} --json --id-only", 2),
    ("submit filter --job nobody", 3),
    ("submit filter --job cancelled --output x.csv", 2),
    ("submit rl --model x", 2),
    ("train", 2),
    ("status nobody", 3),
    ("status ../..", 3),
    ("status --foo", 2),
    ("list --limit 0", 2),
    ("list --label foo", 2),
    ("list --name '\x01'", 2),
    ("cancel", 2),
    ("cancel cancelled --all", 2),
    ("retry waiting", 5),
    ("rm waiting -y", 5),
    ("rm cancelled", 2),
    ("wait --timeout soon waiting", 2),
    ("wait --timeout 1s waiting", 7),
    ("traces show nobody", 3),
    ("traces list --seed 99999999999", 2),
    ("traces replay nobody -o x.mp4", 2),
    ("traces export waiting -o x.jsonl", 2),
    ("key create 'a b'", 2),
    ("key revoke nobody", 3),
    ("up --detach", 5),
    ("up --workers rollout=x", 2),
    ("up --workers bar=1", 2),
    ("help nothing", 2),
]
"""Command lines and the exit codes that are right for them."""

VARIABLES: list[tuple[dict[str, str], str, int]] = [
    ({"SYNTHQ_URL": "localhost:8484"}, "list", 2),
    ({"SYNTHQ_URL": "http://127.0.0.1:1"}, "list", 6),
    ({"SYNTHQ_URL": "http://{address}/elsewhere"}, "list", 6),
    ({"SYNTHQ_URL": "https://{address}"}, "list", 6),
    ({"SYNTHQ_API_PORT": "abc"}, "list", 2),
    ({"SYNTHQ_API_KEY": "two words"}, "list", 4),
    ({"SYNTHQ_LEASE_S": "soon"}, "up", 2),
    ({"SYNTHQ_HOME": "/proc/nowhere"}, "up", 2),
    ({"SYNTHQ_HOME": "{home}-2", "SYNTHQ_REDIS_URL": "localhost"}, "up", 2),
    ({"SYNTHQ_HOME": "{home}-2", "SYNTHQ_DATABASE_URL": "mysql://x"}, "up", 2),
    ({"SYNTHQ_HOME": "{home}-2"}, "up --detach", 5),
    ({"SYNTHQ_HOME": "{home}-2", "SYNTHQ_API_HOST": "not.a.host"}, "up", 2),
]
"""Variables that cannot be right, with a command line that meets them."""

JOBS = "/v1/jobs"
SPEC = '"kind":"eval","spec":{"eval":{"seeds":"0"}}'
REQUESTS: list[tuple[str, str, bytes | None, dict[str, str], int]] = [
    ("POST", JOBS, b"", {}, 422),
    ("POST", JOBS, b"{", {}, 422),
    ("POST", JOBS, b"[]", {}, 422),
    ("POST", JOBS, b"kind=eval", {"Content-Type": "application/x-www-form-urlencoded"}, 422),
    ("POST", JOBS, b'{"kind":"\xff"}', {}, 422),
    ("POST", JOBS, b'{"kind":"eval","spec":' + b'{"a":' * 5000 + b"1" + b"}" * 5001, {}, 422),
    ("POST", JOBS, b"{}", {}, 422),
    ("POST", JOBS, b'{"kind":"evl","spec":{}}', {}, 422),
    ("POST", JOBS, b'{"kind":"rl","spec":{}}', {}, 422),
    ("POST", JOBS, b'{"kind":"eval","spec":{"eval":{"seeds":"0","temperature":NaN}}}', {}, 422),
    ("POST", JOBS, f'{{{SPEC},"nmae":"x"}}'.encode(), {}, 422),
    ("POST", JOBS, f'{{{SPEC},"labels":{{"a b":"1"}}}}'.encode(), {}, 422),
    ("POST", JOBS, f'{{{SPEC},"priority":"high"}}'.encode(), {}, 422),
    ("POST", JOBS, f"{{{SPEC}}}".encode(), {"Idempotency-Key": "x" * 300}, 422),
    ("POST", JOBS, b" " * 5_000_000, {}, 413),
    ("POST", f"{JOBS}?dryrun=1", f"{{{SPEC}}}".encode(), {}, 422),
    ("GET", f"{JOBS}?limit=0", None, {}, 422),
    ("GET", f"{JOBS}?after=zzz", None, {}, 422),
    ("GET", f"{JOBS}/nobody", None, {}, 404),
    ("POST", f"{JOBS}/cancelled/pause", b"", {}, 404),
    ("DELETE", f"{JOBS}/waiting", None, {}, 409),
    ("PATCH", JOBS, None, {}, 405),
    ("GET", "/v1/job", None, {}, 404),
    ("GET", "/v1/frames/../../etc/passwd", None, {}, 404),
    ("GET", "/v1/traces?seed=1e3", None, {}, 422),
    ("GET", f"{JOBS}/waiting/events", None, {"Accept": "text/event-stream", "Last-Event-ID": "x"}, 422),
    ("GET", JOBS, None, {"Host": "evil.example"}, 403),
]
"""Requests and the statuses that are right for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back for one wrong thing."""

    given: str
    wanted: int
    got: int
    sentence: str
    faults: tuple[str, ...] = ()
    """Promises that did not hold."""


class Bad:
    """A running synthq that is given wrong things."""

    def __init__(self, folder: Path, port: int) -> None:
        self.home, self.work, self.port = folder / "home", folder / "work", port
        self.names: dict[str, str] = {}
        """Ids of the two jobs (the newest first), and what the table shows in their place."""
        self.work.mkdir()
        for name, content in FILES.items():
            (self.work / name).write_bytes(content)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SYNTHQ_")}
        path = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.env = {**kept, "SYNTHQ_HOME": str(self.home), "SYNTHQ_API_PORT": str(port), "PYTHONPATH": path}

    def run(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        """One command line."""
        return subprocess.run(
            [*SYNTHQ, *words],
            env={**self.env, **env},
            cwd=self.work,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    @contextmanager
    def up(self) -> Iterator[None]:
        """Runs the system, with a job that waits for a worker and one that was cancelled."""
        begun = self.run("up", "--detach", "--no-flower", "--workers", "rollout=0")
        try:
            if begun.returncode:
                raise SystemExit(f"synthq did not start: {begun.stderr}")
            for name in ("waiting", "cancelled"):
                self.run("submit", "eval", "--seeds", "1", "--name", name, "--idempotency-key", name.replace("waiting", "used"))
            self.run("cancel", "cancelled")
            self.names = {id: f"job_{name}" for id, name in zip(self.jobs(), ("cancelled", "waiting"), strict=True)}
            yield
        finally:
            self.run("down")

    def jobs(self) -> dict[str, str]:
        """Every job there is, and its state."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/v1/jobs?limit=500") as answer:
            return {job["id"]: job["state"] for job in json.load(answer)["data"]}

    def line(self, line: str, wanted: int, env: dict[str, str] | None = None) -> Answer:
        """What the command line says to one wrong line."""
        told = {name: value.format(home=self.home, address=f"127.0.0.1:{self.port}") for name, value in (env or {}).items()}
        ran = self.run(*shlex.split(line), **told)
        said = [text for text in ran.stderr.splitlines() if text.strip() and not text.startswith(("Usage:", "Try '"))]
        faults = [f"exit code {ran.returncode}"] * (ran.returncode != wanted)
        faults += [
            why for why, bad in (("stdout", ran.stdout), ("traceback", "Traceback" in ran.stderr), ("silent", not said)) if bad
        ]
        faults += ["a fault of its own"] * ("a fault of its own" in ran.stderr)
        given = " ".join([*(f"{name}={shlex.quote(value)}" for name, value in told.items()), f"synthq {line}"])
        return Answer(
            given=self.shown(given), wanted=wanted, got=ran.returncode, sentence=self.shown(_sentence(said)), faults=tuple(faults)
        )

    def request(self, method: str, path: str, body: bytes | None, headers: dict[str, str], wanted: int) -> Answer:
        """What the API says to one wrong request, sent as it stands."""
        sent = {"Host": "localhost", "Connection": "close", "Content-Type": "application/json", **headers}
        if body is not None:
            sent["Content-Length"] = str(len(body))
        head = "\r\n".join([f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items())])
        raw = self.exchange(head.encode() + b"\r\n\r\n" + (body or b""))
        top, _, content = raw.partition(b"\r\n\r\n")
        status = int(top.split()[1]) if raw.startswith(b"HTTP/") else 0
        faults = [f"status {status}"] * (status != wanted)
        try:
            problem = json.loads(content)
            sentence = str(problem["detail"])
            faults += ["no anchor"] * (problem["type"] != f"/docs/errors#{problem['code']}")
        except (ValueError, KeyError, TypeError):
            sentence, faults = content.decode(errors="replace"), [*faults, "no problem+json"]
        faults += ["traceback"] * (b"Traceback" in raw)
        shown = [f"{name}: {value}" for name, value in headers.items()]
        given = (
            f"{method} {path}"
            + "".join(f", {each}" for each in shown)
            + (f" `{_cut(body.decode(errors='replace'))}`" if body else "")
        )
        return Answer(given=self.shown(given), wanted=wanted, got=status, sentence=self.shown(sentence), faults=tuple(faults))

    def exchange(self, raw: bytes) -> bytes:
        """Bytes to the API's port, and all that comes back. It may answer and close before it has read everything."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            received = bytearray()
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(raw)
            with suppress(ConnectionResetError):
                while piece := connection.recv(65536):
                    received += piece
            return bytes(received)

    def shown(self, text: str) -> str:
        """The text without what differs from run to run."""
        for what, name in ((f"{self.home}", "HOME"), (str(self.port), "PORT")):
            text = text.replace(what, name)
        for id, name in self.names.items():
            text = text.replace(id, name)
        return re.sub(r"pid \d+", "pid PID", text)


def _sentence(said: list[str]) -> str:
    """The error itself: from ``Error:`` on, or the first line where there is none, as of a help text."""
    start = next((i for i, text in enumerate(said) if text.startswith("Error:")), None)
    if start is None:
        return said[0].strip() if said else ""
    return " ".join(text.strip() for text in said[start:])


def _cut(text: str, most: int = 60) -> str:
    return text if len(text) <= most else f"{text[:most]}..."


def _cell(text: str, most: int) -> str:
    clean = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return _cut(clean, most).replace("|", "\\|").replace("<", "&lt;")


def table(answers: list[Answer], got: str) -> list[str]:
    """The answers as Markdown."""
    rows = [f"| {_cell(each.given, 150)} | {each.got} | {_cell(each.sentence, 300)} |" for each in answers]
    return [f"| given | {got} | the sentence |", "| --- | --- | --- |", *rows]


def ask(bad: Bad) -> tuple[list[Answer], list[Answer]]:
    """Give everything wrong, and hold the jobs to what they were. The answers of the command line, and of the API."""
    before = bad.jobs()
    assert len(before) == 2, f"the two jobs of the start are not there: {before}"
    with ThreadPoolExecutor(AT_ONCE) as pool:
        plain = pool.map(lambda each: bad.line(*each), LINES)
        surrounded = pool.map(lambda each: bad.line(each[1], each[2], each[0]), VARIABLES)
        lines = [*plain, *surrounded]
    requests = [bad.request(*each) for each in REQUESTS]
    after = bad.jobs()
    if after != before:
        raise SystemExit(f"bad input changed the jobs: {before} before, {after} after")
    return lines, requests


def page(lines: list[Answer], requests: list[Answer]) -> str:
    """The whole page."""
    parts = [
        "# Bad input, and what synthq says to it",
        "",
        f"    {COMMAND} > docs/bad-input.md",
        "",
        "That command gives each of these to the real command line and the real API. It fails when an exit code or a status is",
        "not the one foreseen, a traceback or anything on stdout appears, no sentence comes, or a job was stored or lost.",
        f"{len(lines)} command lines and {len(requests)} requests; two jobs before, the same two after.",
        "",
        "## Command line",
        "",
        *table(lines, "exit code"),
        "",
        "## HTTP",
        "",
        *table(requests, "status"),
    ]
    return "\n".join(parts) + "\n"


def main() -> int:
    """Print the page; tell what did not hold."""
    with scratch() as folder:
        bad = Bad(folder, free_port())
        with bad.up():
            lines, requests = ask(bad)
    print(page(lines, requests), end="")
    broken = [each for each in (*lines, *requests) if each.faults]
    for each in broken:
        print(f"{each.given}: {', '.join(each.faults)} (wanted {each.wanted}): {each.sentence}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
