"""Adapter swaps under load: 50 episodes under way, five new versions of the adapter they play with.

    python -m benchmarks.bench_swap [--model DIR] [--swaps 5] [--rollout 2] [--in-flight 25] [--turns 30] [--inference 1]

The whole system by `synthq up`. An eval plays with the newest live version of a line of adapters, as rl does; each version is
published in two phases (loaded beside the old one on every endpoint, then the pointer flips). Told are: requests that had to be
asked again or failed, turns whose recorded version is not what its name was published with, episodes that changed their version
inside a step, and how long a swap takes, from publishing to live and from live to the old one's retirement.
"""

from __future__ import annotations

import argparse
import hashlib
import warnings
from pathlib import Path
from typing import Any

from benchmarks.bench_model_eval import table
from benchmarks.served import Up, tiny, up
from benchmarks.system import job_of, machine, save, scratch, spread, until, wait_for


def write_adapters(model: Path, folder: Path, count: int) -> list[Path]:
    """So many adapters of the language layers, each of which says something else."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen3VLForConditionalGeneration
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    warnings.simplefilter("ignore", FutureWarning)
    target = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
    made = []
    for number in range(count):
        torch.manual_seed(number)
        base = Qwen3VLForConditionalGeneration.from_pretrained(model)
        wrapped = get_peft_model(base, LoraConfig(r=8, lora_alpha=16, target_modules=target))
        with torch.no_grad():
            for name, weight in wrapped.named_parameters():
                if "lora_B" in name:
                    weight.normal_(std=0.2)
        wrapped.save_pretrained(folder / f"v{number + 1}")
        made.append(folder / f"v{number + 1}")
    return made


def submit(system: Up, base: str, asked: dict[str, Any]) -> str:
    """Submit an eval that plays with its own line of adapters; its id."""
    from app import broker, db, lifecycle, specs
    from app.models import ModelUse

    label = asked["policies"][0]
    spec = specs.build({"kind": "eval", "eval": asked})
    use = {"label": label, "base": base, "options": spec.vllm.model_dump()}
    with db.writing() as session:
        job = lifecycle.submit(session, kind="eval", spec=specs.resolved(spec), spec_sha256=specs.sha256(spec), uses=[use])
        row = session.get_one(ModelUse, (job.id, label))
        row.line = job.id
        session.add(row)
    broker.nudge()
    return job.id


def publish(line: str, base: str, path: Path, *, timeout_s: float = 60.0) -> None:
    """Publish a version, and wait until it is live."""
    from app import broker, db, model_folder
    from app.endpoints import publish as publishing
    from app.models import AdapterVersion

    with db.writing() as session:
        sha256 = model_folder.read(path).sha256  # type: ignore[union-attr]
        version = publishing.publish(session, line, base, str(path), sha256=sha256)
    broker.nudge()

    def live() -> bool:
        with db.reading() as session:
            return session.get_one(AdapterVersion, (line, version)).live_at is not None

    until(live, f"version {version} is live", timeout_s, every_s=0.05)


def played(job_id: str) -> tuple[int, int]:
    """Turns of finished episodes, and episodes finished."""
    from sqlmodel import col, func, select

    from app import db
    from app.models import Episode

    with db.reading() as session:
        query = select(func.coalesce(func.sum(Episode.turns), 0), func.count()).where(col(Episode.job_id) == job_id)
        turns, count = session.exec(query.where(col(Episode.state) == "done")).one()
        return int(turns), int(count)


def told(job_id: str) -> dict[str, Any]:
    """What became of versions and turns."""
    from sqlmodel import col, select

    from app import db
    from app.models import AdapterVersion, Episode, TurnRow

    with db.reading() as session:
        versions = session.exec(select(AdapterVersion).where(col(AdapterVersion.line) == job_id)).all()
        rows = session.exec(select(Episode).where(col(Episode.job_id) == job_id)).all()
        turns = session.exec(select(TurnRow).where(col(TurnRow.episode_id).in_([row.id for row in rows]))).all()
    wanted = {f"{version.name}@{version.sha256[:12]}" for version in versions}
    by_episode: dict[str, set[str]] = {}
    for turn in turns:
        by_episode.setdefault(turn.episode_id, set()).add(turn.policy_version)
    by_version = {name: sum(turn.policy_version == name for turn in turns) for name in sorted(wanted)}
    return {
        "episodes": len(rows),
        "failed": sum(row.state != "done" for row in rows),
        "turns": len(turns),
        "asked again": sum(turn.reply["notes"]["attempts"] > 1 for turn in turns),
        "engine errors": sum(turn.outcome == "engine_error" for turn in turns),
        "wrong version": sum(turn.policy_version not in wanted for turn in turns),
        "two versions in one episode": sum(len(each) > 1 for each in by_episode.values()),
        "turns by version": by_version,
        "to live s": [v.live_at - v.published_at for v in versions if v.live_at and v.version > 1],
        "to retired s": [v.retired_at - v.draining_at for v in versions if v.retired_at and v.draining_at],
    }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a folder; no value: a new tiny model")
    parser.add_argument("--swaps", type=int, default=5)
    parser.add_argument("--rollout", type=int, default=2, help="rollout workers")
    parser.add_argument("--inference", type=int, default=1, help="inference workers")
    parser.add_argument("--in-flight", type=int, default=25, help="episodes under way at once in one rollout worker")
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("--frame-px", type=int, default=63)
    parser.add_argument("--waves", type=int, default=3, help="steps that each rollout worker plays between two swaps")
    given = parser.parse_args()
    print(machine())
    at_once = given.rollout * given.in_flight
    wave = at_once * given.waves
    given.episodes = wave * (given.swaps + 1) + at_once  # those of the last wave that began before the last swap
    with tiny(given.model) as model, scratch() as folder:
        adapters = write_adapters(model, folder, given.swaps + 1)
        assert len({hashlib.sha256((path / "adapter_model.safetensors").read_bytes()).digest() for path in adapters}) == len(
            adapters
        )
        with up(rollout=given.rollout, inference=given.inference) as system:
            job_id = submit(system, str(model), table(str(model), given))
            publish(job_id, str(model), adapters[0], timeout_s=120)
            for number, path in enumerate(adapters[1:], start=1):
                until(lambda n=number: played(job_id)[1] >= n * wave, f"wave {number} is played", 300, every_s=0.05)
                assert job_of(job_id).state == "running"
                publish(job_id, str(model), path)
            ended = wait_for(job_id)
            figures = told(job_id)
    print(f"\n{given.swaps} swaps, {at_once} episodes under way at once, {figures['turns']} turns; the job {ended.state}")
    for name in ("episodes", "failed", "engine errors", "asked again", "wrong version", "two versions in one episode"):
        print(f"  {name:28} {figures[name]}")
    for name, count in figures["turns by version"].items():
        print(f"  turns by {name.rpartition('-')[2]:19} {count}")
    print(f"  seconds from published to live          {spread(figures['to live s'])}")
    if figures["to retired s"]:
        print(f"  seconds from draining to retired        {spread(figures['to retired s'])}")
    save("swap", figures)


if __name__ == "__main__":
    main()
