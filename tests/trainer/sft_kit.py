"""What tests of training from data share: lines that are written or played, and a training in this process."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from app import specs
from workers.trainer.child import Held
from workers.trainer.child.ranks import Alone
from workers.trainer.sft import loop

ACTIONS = ("move_left", "move_right", "move_up", "move_down")


def line(asked: str, said: str, *, seed: int = 0, **more: Any) -> dict[str, Any]:
    """One question and its answer."""
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
    return {"messages": messages, "metadata": {"seed": seed}, **more}


def lines(count: int, *, seeds: int = 4) -> list[dict[str, Any]]:
    """Lines of several lengths: what is seen decides what is said."""
    return [line(" ".join(["tree"] * (1 + i % 7)) + f" {ACTIONS[i % 4]}", ACTIONS[i % 4], seed=i % seeds) for i in range(count)]


def written(path: Path, made: Iterable[dict[str, Any]]) -> Path:
    """A file of lines."""
    path.write_text("".join(json.dumps(each) + "\n" for each in made), encoding="utf-8")
    return path


class Trained:
    """A training in this process, which may be stopped and gone on with."""

    def __init__(self, model: Path, train: Path, folder: Path, *, val: Path | None = None, **table: Any) -> None:
        asked = {
            "model": str(model),
            "data": "lines",
            "trainer_mode": "full",
            "epochs": 2,
            "batch_size": 4,
            "gradient_accumulation_steps": 1,
            "learning_rate": 3e-3,
            "seed": 5,
        }
        lora = table.pop("lora", {"r": 4, "alpha": 8})
        spec = specs.build(
            {"sft": asked | table, **({"lora": lora} if table.get("trainer_mode", "full") != "full" else {})}, env={}
        )
        self.told: list[dict[str, Any]] = []
        self.stop = threading.Event()
        self.held = Held(Alone(), self.stop)
        self.args = {
            "spec": specs.resolved(spec),
            "base": str(model),
            "adapter": "",
            "train": {"path": str(train), "name": train.name},
            "val": None if val is None else {"path": str(val), "name": val.name},
            "folder": str(folder),
        }

    def run(self, *, stop_at: int | None = None) -> dict[str, Any]:
        """Train; ``stop_at``: be asked to stop once this step's figures are told. Raises Cancelled then."""
        self.stop.clear()

        def tell(event: dict[str, Any]) -> None:
            self.told.append(event)
            if stop_at is not None and event.get("scope") == "train" and event["index"] >= stop_at:
                self.stop.set()

        return loop.run(self.args, tell, self.held)

    def again(self) -> None:
        """Have nothing in memory, as another process has."""
        self.held = Held(Alone(), self.stop)

    def rows(self, scope: str) -> dict[int, dict[str, float]]:
        """The newest figures of each step, without those that the machine's speed makes."""

        def kept(row: dict[str, float]) -> dict[str, float]:
            return {name: value for name, value in row.items() if not name.endswith("_per_s")}

        return {event["index"]: kept(event["values"]) for event in self.told if event.get("scope") == scope}

    @property
    def warnings(self) -> list[str]:
        """What was told as a warning."""
        return [event["warning"] for event in self.told if "warning" in event]
