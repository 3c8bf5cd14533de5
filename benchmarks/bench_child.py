"""What a call to the trainer's child costs: the first one, which starts it and loads the model, and those that come after.

    python -m benchmarks.bench_child [--model DIR] [--rounds 5] [--calls 20] [--devices 1]

Each round starts a child. ``first`` has it load the model; ``kept`` asks for the learner where the call before left it;
``restored`` asks for it at another checkpoint; ``nothing`` is a call that does nothing, and ``events`` one that tells 1,000.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.bench_core import TEXTS
from benchmarks.system import machine, save, spread

HERE = "benchmarks.bench_child"


def learn(args: dict[str, Any], tell: Callable[[dict[str, Any]], None], held: Any) -> dict[str, Any]:
    """Have a learner at a checkpoint; save it under other names."""
    from workers.trainer.learner import Settings

    learner = held.learner(Settings(base=args["base"]), args["at"])
    for name in args.get("save", ()):
        learner.save(Path(name))
    held.keep(args.get("save", [args["at"]])[-1])
    return {}


def nothing(args: dict[str, Any], tell: Callable[[dict[str, Any]], None], held: Any) -> dict[str, Any]:
    """Only tell."""
    for number in range(args["events"]):
        tell({"number": number, "values": {"loss": 0.5, "grad_norm": 1.25}})
    return {}


def measure(base: Path, folder: Path, given: argparse.Namespace) -> dict[str, list[float]]:
    """Milliseconds of each kind of call."""
    from workers.trainer.resident import Resident

    found: dict[str, list[float]] = {}
    for number in range(given.rounds):
        one, two = (str(folder / f"{number}-{name}") for name in ("one", "two"))
        resident = Resident()

        def timed(name: str, target: str, resident: Resident = resident, **args: Any) -> None:
            began = time.perf_counter()
            with resident.child() as child:
                child.call(f"{HERE}:{target}", args)
            found.setdefault(name, []).append((time.perf_counter() - began) * 1000)

        timed("first", "learn", base=str(base), at="")
        timed("saving twice", "learn", base=str(base), at="", save=[one, two])
        for _ in range(given.calls):
            timed("kept", "learn", base=str(base), at=two)
        for place in [one, two] * (given.calls // 2):
            timed("restored", "learn", base=str(base), at=place)
        for _ in range(given.calls):
            timed("nothing", "nothing", events=0)
        timed("events", "nothing", events=1000)
        resident.stop()
    return found


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a folder; default: a new tiny model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--devices", type=int, default=1)
    given = parser.parse_args()
    from workers.model.tiny import init_tiny

    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"SYNTHQ_HOME": folder, "SYNTHQ_TRAINER_DEVICES": str(given.devices)}
        base = given.model
        if base is None:
            base = Path(folder) / "tiny"
            init_tiny(base, TEXTS)
        found = measure(base.absolute(), Path(folder), given)
    print("ms a call, median (range), calls")
    for name, times in found.items():
        print(f"  {name:14} {spread(times)}, {len(times)}")
    save("child", found)


if __name__ == "__main__":
    main()
