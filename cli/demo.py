"""``synthq demo``: the whole story as one command. It types the commands that a user would type, and shows each of them.

The expert plays; its play becomes lines; a tiny model with random weights learns from them, then goes on by its own play; and all
of them are compared on worlds that nobody has seen. It plays in a home of its own, emptied at the start, so that it meets
nobody's data; what it started, it ends.
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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

import click

from app.errors import NotHere, SynthqError
from cli.client import DEFAULT_PORT, Client
from cli.show import out, say

HOME: Final = Path(".synthq") / "demo"
OUT: Final = Path("out") / "demo"
TINY: Final = OUT / "tiny"
OWN: Final = ("SYNTHQ_URL", "SYNTHQ_API_KEY", "SYNTHQ_API_KEYS", "SYNTHQ_API_HOST", "SYNTHQ_DATABASE_URL", "SYNTHQ_REDIS_URL")
"""Variables of the user's own synthq, which the demo does not touch."""
SOURCES: Final = Path(__file__).parents[1]
BROUGHT: Final = Path(sys.prefix) / "share" / "synthq" / "configs"
PLACES: Final = (SOURCES / "configs", SOURCES / "tests" / "artifacts" / "configs", BROUGHT)
"""Where the demo's specs may be: in a checkout, or where a package brings them."""

Words = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much of everything."""

    play: Words = ()
    learn: Words = ()
    improve: Words = ()
    judge: Words = ()
    rl: str = "rl_tiny.toml"
    """The spec by which it goes on by its own play."""


def _sets(*pairs: str) -> Words:
    return tuple(word for pair in pairs for word in ("--set", pair))


WHOLE: Final = Size()
QUICK: Final = Size(
    play=("--seeds", "20000-20019", *_sets("eval.max_turns=100", "eval.env_config.length=100")),
    rl="rl.vision.small.toml",
    improve=(
        *("--name", "tiny-rl", "--iterations", "2"),
        *_sets(
            "training.group_size=4",
            "training.learning_rate=1e-3",
            "training.max_turns=100",
            "rollout.max_turns=100",
            "rollout.episodes_per_batch=16",
            "rollout.max_concurrent_rollouts=16",
            'rollout.reply_format="text"',
            'rollout.policy_config.rules="bare"',
            "rollout.policy_config.max_actions=1",
            "rollout.policy_config.max_tokens=4",
            "rollout.policy_config.max_llm_calls=100",
            "rollout.env_config.image_size=63",
            "rollout.env_config.length=100",
            'data.final_seeds="50000-50009"',
        ),
    ),
    judge=("--seeds", "50000-50009", *_sets("eval.episodes_per_seed=1")),
)
"""A few minutes: every part is there, and too little of it to prove anything."""


class DemoStopped(SynthqError):
    """A command of the demo did not succeed; it has said why."""


@click.command()
@click.option("--quick", is_flag=True, help="Less of everything: every part runs, and none has learnt much.")
@click.option("--keep", is_flag=True, help="Leave synthq running at the end.")
def demo(quick: bool, keep: bool) -> None:
    """Teach a tiny model to play Crafter from pictures, improve it by its own play, and prove it.

    Needs no GPU, no server and nothing from elsewhere. The data stay in .synthq/demo, what was made in out/demo.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    tour = Tour(home=HOME.absolute(), port=_free_port(), keep=keep, size=QUICK if quick else WHOLE)
    with tour.server():
        tour.teach()
        tour.learn()
        tour.improve()
        tour.judge()
        tour.picture()
    tour.tell()


class Tour:
    """One run of the demo: its home, its port, and how long each part took."""

    def __init__(self, *, home: Path, port: int, keep: bool, size: Size) -> None:
        self.home, self.port, self.keep, self.size = home, port, keep, size
        self.took: dict[str, float] = {}
        self.env = {name: value for name, value in os.environ.items() if name not in OWN}
        self.env |= {"SYNTHQ_HOME": str(home), "SYNTHQ_API_PORT": str(port)}
        self.env.pop("SYNTHQ_ARTIFACTS_URL", None)

    @contextmanager
    def server(self) -> Iterator[None]:
        """A synthq of the demo's own, ended afterwards whatever happens, unless it is to be kept."""
        if (self.home / "run" / "supervisor.json").exists():  # an earlier demo was kept
            self.run("", "down")
        for folder in (self.home, OUT):
            shutil.rmtree(folder, ignore_errors=True)
        OUT.mkdir(parents=True)
        kept = False
        try:
            self.run("start", "up", "--detach", "--workers", "rollout=2", "--port", str(self.port))
            yield
            kept = self.keep
        finally:
            if not kept:
                self.run("end", "down", check=False)

    def teach(self) -> None:
        """The expert plays, and its turns become lines."""
        self._say("The expert plays. It decides on each frame alone, as a model that sees one picture must.")
        self.submit("expert", "eval", "eval_tiny_expert.toml", *self.size.play)
        self._say("Each of its turns becomes a line: a picture, and the word that it said to it.")
        self.submit("lines", "filter", "filter_tiny.toml")

    def learn(self) -> None:
        """A model with random weights learns to say the same."""
        self._say("A Qwen3-VL of a million random weights learns to say the same word to the same picture.")
        self.run("init", "models", "init-tiny", str(TINY))
        self.submit("sft", "sft", "sft_tiny.toml", "--model", str(TINY), *self.size.learn)

    def improve(self) -> None:
        """It goes on by its own play."""
        self._say("It goes on by its own play: what came to more than was expected becomes likelier.")
        self.submit("rl", "rl", self.size.rl, "--model", str(TINY), "--warmstart-from", "tiny-sft", *self.size.improve)

    def judge(self) -> None:
        """All of them play worlds that nobody has seen."""
        self._say("All of them play worlds that nobody was trained on.")
        short = ("--set", "eval.policy_config.max_tokens=4")
        players = {
            "random": ("--policy", "random"),
            "untrained": ("--policy", f"model:{TINY}", *short),
            "sft": ("--policy", f"model:{self.made_by('tiny-sft')}", *short),
            "rl": ("--policy", f"model:{self.made_by('tiny-rl')}", *short),
            "expert": ("--policy", "scripted:reactive"),
        }
        for name, words in players.items():
            self.submit("compare", "eval", "eval_tiny.toml", *words, "--name", name, *self.size.judge)
        files = ("--html", str(OUT / "compare.html"), "--png", str(OUT / "compare.png"))
        self.run("compare", "compare", *players, *files)

    def picture(self) -> None:
        """Draw how it learnt, and the best episode of what came out."""
        for job in ("tiny-sft", "tiny-rl"):
            self.run("draw", "metrics", job, "--png", str(OUT / f"{job}.png"))
        with self.client() as client:
            episodes = client.pages("/traces", job="rl")
            best = max(episodes, key=lambda each: (each["unlocked"], each["returns"].get("native", 0.0)))
        self.run("draw", "traces", "replay", best["id"], "--output", str(OUT / "best.gif"))

    def made_by(self, job: str) -> str:
        """The artifact in which a job left its model; of an rl job, the last one."""
        with self.client() as client:
            made = [each for each in client.rows(f"/jobs/{job}/artifacts") if each["kind"] in ("model", "adapter")]
        if not made:
            raise DemoStopped(f"{job} has left no model, so the demo ends here")
        return str(max(made, key=lambda each: each["created_at"])["id"])

    def client(self) -> Client:
        """A client of the demo's own server."""
        return Client(f"http://127.0.0.1:{self.port}")

    def submit(self, part: str, kind: str, file: str, *words: str) -> None:
        """Submit one of the demo's specs, and wait for its end."""
        self.run(part, "submit", kind, str(_spec(file)), *words, "--watch")

    def run(self, part: str, *words: str, check: bool = True) -> None:
        """Show a command and run it. Raises DemoStopped when it does not succeed."""
        out(f"\n$ synthq {shlex.join(_shown(words))}")
        began = time.monotonic()
        code = subprocess.run([sys.executable, "-m", "cli.main", *words], env=self.env, check=False).returncode
        self.took[part] = self.took.get(part, 0.0) + time.monotonic() - began
        if code in (130, -signal.SIGINT):
            raise KeyboardInterrupt
        if check and code:
            raise DemoStopped(f"`synthq {words[0]}` ended with exit code {code}, so the demo ends here")

    def tell(self) -> None:
        """What was made, how long it took, and what to try next."""
        out("")
        for name, what in (
            ("compare.html", "who plays how well, and what is certain of it"),
            ("compare.png", "the same as a picture"),
            ("tiny-sft.png", "how it learnt from the expert"),
            ("tiny-rl.png", "how it learnt from its own play"),
            ("best.gif", "the best of its episodes"),
        ):
            out(f"  {OUT / name}  {(OUT / name).stat().st_size / 1e6:.1f} MB, {what}")
        whole = sum(self.took.values()) / 60
        out(f"took {whole:.1f} min: " + ", ".join(f"{part} {seconds:.0f} s" for part, seconds in self.took.items() if part))
        if self.keep:
            home = os.path.relpath(self.home)
            url = "" if self.port == DEFAULT_PORT else f"SYNTHQ_API_PORT={self.port} "
            out(f"synthq still runs: try `{url}synthq traces list --best 5`, and end it with `SYNTHQ_HOME={home} synthq down`")
        else:
            say("its data are in .synthq/demo; `make demo KEEP=1` or `synthq demo --keep` leaves synthq running to look around")

    def _say(self, sentence: str) -> None:
        out(f"\n# {sentence}")


def _shown(words: Sequence[str]) -> list[str]:
    """Words as a user would type them: paths from here."""
    here = str(Path.cwd())
    return [os.path.relpath(word) if word.startswith(here) else word for word in words]


def _spec(name: str) -> Path:
    """One of the specs that the demo submits. Raises NotHere."""
    found = next((place / name for place in PLACES if (place / name).is_file()), None)
    if found is None:
        raise NotHere(f"{name} is not here; `synthq demo` needs the folder configs/ that comes with synthq's sources")
    return found


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
