"""Does it learn, whatever the seed? Trains a tiny model several times, and tries each on worlds that are kept for this alone.

    python -m benchmarks.prove_learning [--runs 3] [--final 60000-60199] [--each 2] [--folder out/proof]

The demo's specs, typed as a user types them: the expert plays once; then in every run a model with other random weights learns
from its play and goes on by its own, in other worlds than the other runs, with other draws. Untrained, SFT and RL then play the
final seeds, of which nothing was trained on, tuned on or looked at before. What each has gained is told by `synthq compare`,
in means over seeds with paired 95 % intervals.

A run that broke off is gone on with: what is in the folder is not done again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.system import free_port, machine

WORLDS = 3_200
"""Seeds of training that a run may use up: 50 updates of 64. Three runs end below the seeds of tuning."""


class Proof:
    """A synthq of its own, and what was asked of it."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given, self.folder = given, Path(given.folder).absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        keep = {name: value for name, value in os.environ.items() if not name.startswith("SYNTHQ_")}
        self._env = {**keep, "SYNTHQ_HOME": str(self.folder / "home"), "SYNTHQ_API_PORT": str(free_port())}
        self._done_path = self.folder / "took.json"
        self.took: dict[str, float] = json.loads(self._done_path.read_text()) if self._done_path.exists() else {}

    def synthq(self, *words: str) -> str:
        """A command as a user types it; what it prints. Raises CalledProcessError where it fails."""
        told = self._typed(*words)
        told.check_returncode()
        return told.stdout

    def _typed(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "cli.main", *words], env=self._env, stdout=subprocess.PIPE, text=True)

    def job(self, name: str, kind: str, file: str, *words: str) -> None:
        """Have a job done, unless it was, and note what it took; one that was broken off goes on."""
        if name in self.took:
            return
        began = time.monotonic()
        there = self._typed("status", name, "--json")
        if there.returncode == 0:
            if json.loads(there.stdout)["state"] in ("failed", "cancelled"):
                self.synthq("retry", name)
            self.synthq("watch", name)
        else:
            self.synthq("submit", kind, f"configs/{file}", *words, "--name", name, "--watch")
        self.took[name] = time.monotonic() - began
        self._done_path.write_text(json.dumps(self.took, indent=1))
        print(f"{name}: {self.took[name]:.0f} s", flush=True)

    def model_of(self, job: str) -> str:
        """The newest model or adapter that a job left."""
        told = json.loads(self.synthq("artifacts", job, "--json"))["data"]
        made = [each for each in told if each["kind"] in ("model", "adapter")]
        return str(max(made, key=lambda each: each["created_at"])["id"])

    def tried(self, name: str, *words: str) -> None:
        """Have somebody play the final seeds."""
        final = ("--seeds", self.given.final, "--set", f"eval.episodes_per_seed={self.given.each}")
        self.job(name, "eval", "eval_tiny.toml", *words, *final)

    def run(self, number: int) -> None:
        """Train once, and try what came of it."""
        model = self.folder / f"tiny-{number}"
        if not model.exists():
            self.synthq("models", "init-tiny", str(model), "--seed", str(number))
        sft, rl = f"sft-{number}", f"rl-{number}"
        self.job(f"tiny-{sft}", "sft", "sft_tiny.toml", "--model", str(model), "--set", f"sft.seed={number}")
        worlds = ("--set", f"data.seed_start={30_000 + WORLDS * number}", "--set", f'data.final_seeds="{self.given.final}"')
        begun = ("--model", str(model), "--warmstart-from", f"tiny-{sft}")
        self.job(f"tiny-{rl}", "rl", "rl_tiny.toml", *begun, *worlds, "--set", f"training.seed={number}", *self.given.rl)
        for name, ref in ((f"untrained-{number}", model), (sft, self.model_of(f"tiny-{sft}")), (rl, self.model_of(f"tiny-{rl}"))):
            self.tried(name, "--policy", f"model:{ref}", "--set", "eval.policy_config.max_tokens=4")

    def compared(self, number: int) -> dict[str, Any]:
        """What ``synthq compare`` finds, with its page and picture beside."""
        arms = [f"untrained-{number}", f"sft-{number}", f"rl-{number}"]
        page, picture = (str(self.folder / f"compare-{number}.{form}") for form in ("html", "png"))
        told: dict[str, Any] = json.loads(self.synthq("compare", *arms, "--html", page, "--png", picture, "--json"))
        (self.folder / f"compare-{number}.json").write_text(json.dumps(told))
        self.synthq("metrics", f"tiny-rl-{number}", "--png", str(self.folder / f"rl-{number}.png"))
        return told


def main() -> None:
    """Train, try and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--final", default="60000-60199", help="seeds that are kept for this")
    parser.add_argument("--each", type=int, default=2, help="episodes of each")
    parser.add_argument("--folder", default="out/proof")
    parser.add_argument("rl", nargs="*", help="more words for the rl jobs, after --, such as --iterations 50")
    given = parser.parse_args()
    print(machine())
    proof = Proof(given)
    began = time.monotonic()
    try:
        proof.synthq("up", "--detach", "--workers", "rollout=2")  # one that is not ready in time goes on trying
        proof.job("tiny-expert", "eval", "eval_tiny_expert.toml")
        proof.job("tiny-lines", "filter", "filter_tiny.toml")
        for number in range(given.runs):
            proof.run(number)
        proof.tried("random", "--policy", "random")
        proof.tried("expert", "--policy", "scripted:reactive")
        told = [proof.compared(number) for number in range(given.runs)]
    finally:
        proof.synthq("down")
    (proof.folder / "proof.json").write_text(json.dumps(told))
    print(f"in all {(time.monotonic() - began) / 60:.1f} min")


if __name__ == "__main__":
    main()
