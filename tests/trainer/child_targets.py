"""What tests have the trainer's child do."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from app import db
from app.errors import BadModel
from app.models import Job
from app.store import events
from workers.trainer.child import Cancelled, Held

Tell = Callable[[dict[str, Any]], None]
KEPT: dict[str, Any] = {}


def add(args: dict[str, Any], tell: Tell, held: Held) -> dict[str, Any]:
    """A sum, told piece by piece, and printed where the protocol would meet it."""
    total = 0
    for number in args["numbers"]:
        total += number
        print(f"so far {total}", flush=True)
        os.write(1, b"and past Python's own files\n")
        tell({"total": total})
    return {"total": total, "pid": os.getpid()}


def count(args: dict[str, Any], tell: Tell, held: Held) -> dict[str, Any]:
    """How often it was called in this process."""
    KEPT["calls"] = KEPT.get("calls", 0) + 1
    return {"calls": KEPT["calls"], "pid": os.getpid()}


def go_on(args: dict[str, Any], tell: Tell, held: Held) -> dict[str, Any]:
    """Pass after pass until it is asked to stop; then it writes down where it stands."""
    step = 0
    try:
        while True:
            held.check()
            step += 1
            tell({"step": step, "pid": os.getpid()})
            time.sleep(0.01)
    except Cancelled:
        if held.rank == 0:
            Path(args["checkpoint"]).write_text(str(step))
        tell({"saved": step})
        raise


def stumble_on_the_way(args: dict[str, Any], tell: Tell, held: Held) -> dict[str, Any]:
    """One of them goes wrong while the others wait for it in the middle of the call."""
    from torch import distributed

    if held.rank == args["rank"]:
        raise ValueError(f"no good: {args['what']}")
    distributed.barrier()
    return {}


def hang(args: dict[str, Any], tell: Tell, held: Held) -> dict[str, Any]:
    """Neither goes on nor looks whether it should stop."""
    tell({"pid": os.getpid()})
    time.sleep(1000)
    return {}


def fall(args: dict[str, Any], tell: Tell, held: Held) -> dict[str, Any]:
    """Die at once, as when the kernel needs the memory."""
    tell({"pid": os.getpid()})
    print("the last words", flush=True)
    time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def refuse(args: dict[str, Any], tell: Tell, held: Held) -> dict[str, Any]:
    """What the user gave cannot be right."""
    raise BadModel("/models/nothing is no model")


def stumble(args: dict[str, Any], tell: Tell, held: Held) -> dict[str, Any]:
    """A fault, in one of the processes or in all."""
    if args.get("rank") in (None, held.rank):
        raise ValueError(f"no good: {args['what']}")
    return {"rank": held.rank}


def jobs(args: dict[str, Any], tell: Tell, held: Held) -> dict[str, Any]:
    """How many jobs the store has."""
    with db.reading() as session:
        return {"jobs": session.connection().execute(select(func.count()).select_from(Job)).scalar_one()}


def write(args: dict[str, Any], tell: Tell, held: Held) -> dict[str, Any]:
    """What only the worker may do."""
    with db.writing() as session:
        events.append(session, args["job"], "log", "from the child")
    return {}


def all_sum(args: dict[str, Any], tell: Tell, held: Held) -> dict[str, Any]:
    """What all processes add up to, by the group that training uses."""
    import torch
    from torch import distributed

    mine = torch.tensor([float(held.rank + 1)])
    distributed.all_reduce(mine)
    tell({"rank": held.rank})
    return {"sum": mine.item(), "size": held.size, "threads": os.environ.get("OMP_NUM_THREADS")}


def learn(args: dict[str, Any], tell: Tell, held: Held) -> dict[str, Any]:
    """Have a learner at a place, and leave it at another."""
    from workers.trainer.learner import Settings

    began = time.perf_counter()
    learner = held.learner(Settings(**args["settings"]), args["at"])
    took = time.perf_counter() - began
    if args.get("save"):
        learner.save(Path(args["save"]))
        held.keep(args["save"])
    elif args.get("keep"):
        held.keep(args["at"])
    return {"learner": id(learner), "took": took, "torch": "torch" in sys.modules}


def environment(args: dict[str, Any], tell: Tell, held: Held) -> dict[str, Any]:
    """What the child was started with."""
    return {name: os.environ.get(name) for name in args["names"]}
