"""``synthq demo``: the first five minutes as one command. It types the commands that a user would type, and shows each of them.

It plays in a home of its own, emptied at the start, so that it meets nobody's data; what it started, it ends.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn

import click

from app.errors import SynthqError
from cli.client import DEFAULT_PORT, Client
from cli.show import out, say

HOME: Final = Path(".synthq") / "demo"
OUT: Final = Path("out") / "demo"
JOB: Final = "demo-play"
STEPS: Final = 1000
"""Longest episode, in game steps: a good player can live for thousands, and a first try should end soon."""
OWN: Final = ("SYNTHQ_URL", "SYNTHQ_API_KEY", "SYNTHQ_API_KEYS", "SYNTHQ_API_HOST", "SYNTHQ_DATABASE_URL", "SYNTHQ_REDIS_URL")
"""Variables of the user's own synthq, which the demo does not touch."""


class DemoStopped(SynthqError):
    """A command of the demo did not succeed; it has said why."""


@click.command()
@click.option("--seeds", default="0-9", show_default=True, help="The seeds to play: 0-9, or 0,3,7-9.")
@click.option("--policy", default="scripted,random", show_default=True, metavar="NAMES", help="Who plays each of them.")
@click.option("--keep", is_flag=True, help="Leave synthq running at the end.")
def demo(seeds: str, policy: str, keep: bool) -> None:
    """Start synthq, play seeds with two policies, export the better play, and end it all.

    Needs no model, no GPU and no server. The data stay in .synthq/demo, what was made in out/demo.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    tour = Tour(home=HOME.absolute(), port=_free_port(), keep=keep)
    with tour.server():
        tour.play(seeds, policy)
        best = tour.best()
        tour.export(best["policy"])
        tour.picture(best["id"])
    tour.tell(best)


class Tour:
    """One run of the demo: its home, its port, and how long each part took."""

    def __init__(self, *, home: Path, port: int, keep: bool) -> None:
        self.home, self.port, self.keep = home, port, keep
        self.took: dict[str, float] = {}
        self.env = {name: value for name, value in os.environ.items() if name not in OWN}
        self.env |= {"SYNTHQ_HOME": str(home), "SYNTHQ_API_PORT": str(port)}
        self.env.pop("SYNTHQ_ARTIFACTS_URL", None)

    @contextmanager
    def server(self) -> Iterator[None]:
        """A synthq of the demo's own, ended afterwards whatever happens, unless it is to be kept."""
        if (self.home / "run" / "supervisor.json").exists():  # an earlier demo was kept
            self.run("", "down")
        shutil.rmtree(self.home, ignore_errors=True)
        OUT.mkdir(parents=True, exist_ok=True)
        kept = False
        try:
            self.run("start", "up", "--detach", "--workers", "rollout=2", "--port", str(self.port))
            yield
            kept = self.keep
        finally:
            if not kept:
                self.run("end", "down", check=False)

    def play(self, seeds: str, policies: str) -> None:
        """Play the seeds with every policy, and score the play."""
        words = ["--env", "crafter", "--seeds", seeds, "--policy", policies, "--set", f"eval.env_config.length={STEPS}"]
        self.run("play and score", "submit", "eval", *words, "--name", JOB, "--watch")

    def best(self) -> dict[str, Any]:
        """Of the policy that unlocked more on average: the episode with most achievements, then the greatest return."""
        with Client(f"http://127.0.0.1:{self.port}") as client:
            scores = client.job(JOB)["summary"]["policies"]
            better = max(scores, key=lambda name: scores[name]["achievements"]["mean"])
            episodes = client.pages("/traces", job=JOB, policy=better)
            return max(episodes, key=lambda each: (each["unlocked"], each["returns"].get("native", 0.0)))

    def export(self, policy: str) -> None:
        """Write the better half of the better policy's play as training data."""
        words = ["--job", JOB, "--set", f'filter.policies=["{policy}"]', "--set", "filter.top_share=0.5"]
        self.run("export", "submit", "filter", *words, "--output", str(OUT / "best.jsonl"), "--watch")

    def picture(self, episode: str) -> None:
        """Draw the best episode, moving and as a strip of its turning points."""
        self.run("draw", "traces", "replay", episode, "--output", str(OUT / "best.gif"))
        self.run("draw", "traces", "replay", episode, "--output", str(OUT / "best.png"))

    def run(self, part: str, *words: str, check: bool = True) -> None:
        """Show a command and run it. Raises DemoStopped when it does not succeed."""
        shown = [word if not word.startswith(str(Path.cwd())) else os.path.relpath(word) for word in words]
        out(f"\n$ synthq {shlex.join(shown)}")
        began = time.monotonic()
        code = subprocess.run([sys.executable, "-m", "cli.main", *words], env=self.env, check=False).returncode
        self.took[part] = self.took.get(part, 0.0) + time.monotonic() - began
        if code in (130, -signal.SIGINT):
            raise KeyboardInterrupt
        if check and code:
            raise DemoStopped(f"`synthq {words[0]}` ended with exit code {code}, so the demo ends here")

    def tell(self, best: dict[str, Any]) -> None:
        """What was made, how long it took, and what to try next."""
        out(f"\nbest episode: seed {best['seed']} by {best['policy']}, {best['unlocked']} achievements in {best['length']} steps")
        for name, what in (
            ("best.jsonl", "its policy's better half, as training data"),
            ("best.gif", "it, moving"),
            ("best.png", "it, in a strip"),
        ):
            out(f"  {OUT / name}  {(OUT / name).stat().st_size / 1e6:.1f} MB, {what}")
        out("took " + ", ".join(f"{part} {seconds:.1f} s" for part, seconds in self.took.items() if part))
        if self.keep:
            home = os.path.relpath(self.home)
            url = "" if self.port == DEFAULT_PORT else f"SYNTHQ_API_PORT={self.port} "
            out(f"synthq still runs: try `{url}synthq traces list --best 5`, and end it with `SYNTHQ_HOME={home} synthq down`")
        else:
            say("its data are in .synthq/demo; `make demo KEEP=1` or `synthq demo --keep` leaves synthq running to look around")


def _free_port() -> int:
    """The port that synthq always has, or any free one where that is taken."""
    for port in (DEFAULT_PORT, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise DemoStopped("no port is free on 127.0.0.1")


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """SIGTERM ends the demo as Ctrl-C does: what it started is ended first."""
    raise KeyboardInterrupt
