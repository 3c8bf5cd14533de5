"""The verb ``db prune``: its flags, and what it tells."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence

from app.command_line import counted, out, out_json, say, size, told
from app.retention.policy import Policy
from app.retention.prune import Pruned, Pruner
from app.retention.unnamed import grace_s
from app.transfer.source import check_target


def flags() -> argparse.ArgumentParser:
    """The flags of the verb."""
    parser = argparse.ArgumentParser(prog="synthq db prune", description="Drop what is old, and what nothing names any more.")
    parser.add_argument("--jobs-days", type=float)
    parser.add_argument("--frames-days", type=float)
    parser.add_argument("--unknown-files", action="store_true")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--json", action="store_true")
    return parser


def main(words: Sequence[str] | None = None) -> int:
    """Run the verb; the exit code."""
    given = flags().parse_args(words)
    return told(lambda: _prune(given))


def _prune(given: argparse.Namespace) -> int:
    check_target()
    settings = Policy.of_settings()
    wanted = Policy(
        jobs_days=settings.jobs_days if given.jobs_days is None else given.jobs_days,
        frames_days=settings.frames_days if given.frames_days is None else given.frames_days,
    )
    done = Pruner(wanted, dry_run=given.dry_run, unknown_files=given.unknown_files).run()
    if given.json:
        out_json({"jobs_days": wanted.jobs_days, "frames_days": wanted.frames_days, **done.to_json()})
        return 0
    for line in _lines(done, wanted):
        out(line)
    if given.dry_run:
        say("nothing was changed: this was a dry run")
    return 0


def _lines(done: Pruned, wanted: Policy) -> Iterator[str]:
    verb = "would drop" if done.dry_run else "dropped"
    ages = [f"jobs {wanted.jobs_days:g} days" if wanted.jobs_days else "jobs for ever"]
    ages += [f"frames {wanted.frames_days:g} days" if wanted.frames_days else "frames as long as something names them"]
    yield f"kept: {', '.join(ages)}"
    yield f"{verb} {counted(done.jobs, 'job')}, {counted(done.episodes, 'episode')}, {counted(done.turns, 'turn')}"
    of = f"; {counted(done.jobs_without_frames, 'job')} past the time of frames" if done.jobs_without_frames else ""
    yield f"{verb} {counted(done.frames, 'frame')} ({size(done.frame_bytes)}){of}"
    yield f"{verb} {counted(done.texts, 'text')}, {counted(done.files, 'file')} without a row ({size(done.file_bytes)})"
    if done.young_frames:
        yield f"{counted(done.young_frames, 'frame')} that nothing names stay until they are {grace_s() / 3600:g} hours old"
    if done.unknown_files:
        yield (
            f"{counted(done.unknown_files, 'file')} ({size(done.unknown_bytes)}) of jobs that this store does not know stay: "
            "another store may use the same root (--unknown-files drops them)"
        )


if __name__ == "__main__":
    sys.exit(main())
