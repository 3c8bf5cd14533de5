"""synthq's side of ``bench_trl``: the code of sft and rl jobs around the learner, without store and broker."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.sides import Orders, Seconds


def learner_of(config: dict[str, Any], mode: str) -> Any:
    """The learner, as both sides have it."""
    from workers.trainer.learner import Learner, Settings

    adapter = config["adapter"] if mode == "lora" else ""
    settings: dict[str, Any] = {"mode": mode, "adapter": adapter, "learning_rate": config["learning_rate"], "device": "cpu"}
    return Learner(Settings(base=config["base"], **settings))


class Sft:
    """An sft job's epochs."""

    def __init__(self, config: dict[str, Any], mode: str) -> None:
        from workers.trainer.sft.lines import reading

        self._learner, self._config, self._epoch = learner_of(config, mode), config, 0
        self._reading = reading(config["base"])

    def compared(self) -> dict[str, Any]:
        """Loss and gradient of the first lines, by a learner that is then thrown away."""
        from workers.trainer.sft.training import imitation

        data = self._data()
        samples = [data.sample(number) for number in range(self._config["batch"])]
        targets = sum(len(sample.targets) for sample in samples)
        told = _gradient(self._learner, samples, imitation, targets)
        return {"ids": [list(sample.ids) for sample in samples], "targets": targets, **told}

    def round(self) -> dict[str, Seconds]:
        """A first epoch, with nothing of any line or picture held yet, of what it trains, and of a later epoch."""
        self._learner.forget_seen()
        began = Seconds.now()
        data = self._data()
        ready = self._train(data)
        first = Seconds.now()
        self._train(data)
        return {"whole": first.less(began), "ready": ready, "later": Seconds.now().less(first)}

    def _data(self) -> Any:
        """The file, looked through; nothing is held of what was read before."""
        from workers.model.images import ImageReader
        from workers.trainer.sft.data import Data, Limits

        by = replace(self._reading, images=ImageReader.of(Path(self._config["base"])))
        return Data(Path(self._config["lines"]), "lines.jsonl", by, Limits(tokens=1024))

    def _train(self, data: Any) -> Seconds:
        """An epoch; gives what was spent in the learner alone."""
        from workers.trainer.sft.order import steps_of
        from workers.trainer.sft.training import imitation

        spent, lengths = Seconds(), [entry.tokens for entry in data.entries]
        for numbers in steps_of(lengths, seed=0, epoch=self._epoch, batch=self._config["batch"], batches=1):
            samples = [data.sample(number) for number in numbers]
            began = Seconds.now()
            self._learner.accumulate(samples, imitation, scale=1 / sum(len(sample.targets) for sample in samples))
            self._learner.step()
            spent = spent.plus(Seconds.now().less(began))
        self._epoch += 1
        return spent


class Grpo:
    """An rl job's optimizer steps on replies that are there."""

    def __init__(self, config: dict[str, Any], mode: str) -> None:
        from workers.trainer.objective.losses import Objective, Options

        self._learner, self._config = learner_of(config, mode), config
        self._objective = Objective("token", Options(clip_low=config["clip_low"], clip_high=config["clip_high"]))
        self._rows = json.loads(Path(config["play"][mode]).read_text())
        lines = [json.loads(line) for line in Path(config["lines"]).read_text(encoding="utf-8").splitlines()]
        self._pngs = [_png(line) for line in lines]

    def compared(self) -> dict[str, Any]:
        """Loss and gradient of the first rows, by a learner that is then thrown away."""
        samples = self._samples(0)
        units = self._objective.units(samples)
        told = _gradient(self._learner, samples, self._objective, units)
        advantages = [float(sample.advantages[0]) for sample in samples if sample.advantages is not None]
        return {"ids": [list(sample.ids) for sample in samples], "targets": units, "advantages": advantages, **told}

    def round(self) -> dict[str, Seconds]:
        """An epoch from rows and the bytes of pictures that were never seen, and of what of it trains."""
        self._learner.forget_seen()
        began, ready = Seconds.now(), Seconds()
        for start in range(0, len(self._rows), self._config["batch"]):
            samples = self._samples(start)
            trained = Seconds.now()
            self._learner.accumulate(samples, self._objective, scale=1 / self._objective.units(samples))
            self._learner.step()
            ready = ready.plus(Seconds.now().less(trained))
        return {"whole": Seconds.now().less(began), "ready": ready}

    def _samples(self, start: int) -> list[Any]:
        """The samples of a step, with their pictures and their advantages."""
        from workers.model.images import ImageReader
        from workers.trainer.samples import Sample

        rows = self._rows[start : start + self._config["batch"]]
        earned = np.array([row["reward"] for row in rows]).reshape(-1, self._config["group"])
        advantages = (earned - earned.mean(axis=1, keepdims=True)).reshape(-1)
        reader = ImageReader.of(Path(self._config["base"]), cache_bytes=0)
        made = []
        for place, row in enumerate(rows):
            ids = (*row["prompt_ids"], *row["completion_ids"])
            targets = tuple(range(len(row["prompt_ids"]), len(ids)))
            sample = Sample(
                key=str(start + place),
                ids=ids,
                targets=targets,
                pictures=(reader.read(self._pngs[start + place]),),
                logprobs=np.array(row["logprobs"], np.float32),
                advantages=np.full(len(targets), advantages[place], np.float32),
            )
            made.append(sample)
        return made


def _png(line: dict[str, Any]) -> bytes:
    parts = [part for message in line["messages"] if isinstance(message["content"], list) for part in message["content"]]
    (url,) = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    return base64.b64decode(url.partition(",")[2])


def _gradient(learner: Any, samples: list[Any], loss: Callable[[Any], Any], units: int) -> dict[str, Any]:
    tally = learner.accumulate(samples, loss, scale=1 / units)
    told = {"loss": tally.loss, "parameters": learner.parameters}
    if "clipped" in tally.figures:
        told["clip_share"] = tally.figures["clipped"] / tally.figures["tokens"]
    return {**told, "grad_norm": learner.step()["grad_norm"]}


def main() -> None:
    """Obey."""
    config = json.loads(Path(sys.argv[1]).read_text())
    orders = Orders()
    import peft
    import torch
    import transformers

    while True:
        order = orders.next()
        if order["do"] == "say":
            told = {module.__name__: module.__version__ for module in (transformers, peft, torch)}
            orders.answer({"versions": told, "threads": torch.get_num_threads()})
            continue
        kind = Sft if order["task"] == "sft" else Grpo
        orders.answer(kind(config, order["mode"]).compared())
        task = kind(config, order["mode"])
        while orders.next()["do"] != "end":
            orders.answer(task.round())
        orders.answer({})


if __name__ == "__main__":
    main()
