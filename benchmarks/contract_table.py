"""Every engine against every check of the contract, with what was measured, on a tiny model made for it.

    python -m benchmarks.contract_table [--engines transformers,vllm] [--model DIR]

vLLM is there after ``make vllm-env``; an engine that this machine cannot start is named and left out.
"""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.system import machine, save, scratch


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", default="transformers,vllm", help="a comma list (%(default)s)")
    parser.add_argument("--model", type=Path, help="folder of a Qwen3-VL; none: a tiny one is made")
    told = parser.parse_args()
    with scratch() as folder, ExitStack() as ends:
        table = measure(told.engines.split(","), told.model, folder, ends)
    for line in table["lines"]:
        print(line)
    save("contract_table", table)


def measure(names: list[str], model: Path | None, folder: Path, ends: ExitStack) -> dict[str, Any]:
    """The table as lines of Markdown, and its cells."""
    from app.engines import why_not
    from benchmarks import engine_contract as contract
    from benchmarks.contract_reference import Reference

    base = str(model.absolute() if model else tiny(folder / "tiny"))
    adapters = contract.adapters_on(base, folder)
    reference, subjects, started = Reference(base, adapters), {}, {}
    for name in names:
        if missing := why_not(name):
            print(f"without {name}: {missing}")
            continue
        began = time.monotonic()
        serving = contract.serving(name, base, adapters, reference, folder / f"{name}.log")
        subjects[name] = ends.enter_context(serving)
        started[name] = f"{time.monotonic() - began:.0f} s"
    cells = {"ready, probed, with two adapters": started}
    for check in contract.CHECKS:
        cells[check.__name__.replace("_", " ")] = {name: _measured(check, subject) for name, subject in subjects.items()}
    if len(subjects) == 2:
        both = _measured(contract.between, *subjects.values())
        cells["the engines against each other, greedy"] = dict.fromkeys(subjects, both)
    lines = [f"{machine()}; {base if model else 'a tiny model'} in float32", "", f"| check | {' | '.join(subjects)} |"]
    lines.append("| --- |" + " --- |" * len(subjects))
    lines += [f"| {check} | {' | '.join(row[name] for name in subjects)} |" for check, row in cells.items()]
    return {"machine": machine(), "cells": cells, "lines": lines}


def tiny(folder: Path) -> Path:
    """A tiny model, with a tokenizer for the product's own prompts."""
    from workers.init_tiny import texts, words
    from workers.model.tiny import init_tiny

    return init_tiny(folder, texts(), words=words()).path


def _measured(check: Any, *subjects: Any) -> str:
    try:
        return str(check(*subjects)).replace("|", "\\|")
    except Exception as error:  # noqa: BLE001 - a check that fails is a cell of the table
        return f"FAILED: {type(error).__name__} {error}".replace("\n", " ").replace("|", "\\|")[:200]


if __name__ == "__main__":
    main()
