"""The verbs ``db backup`` and ``db restore``: their flags, and what they tell."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.backup.bring_back import restore
from app.backup.save import save
from app.command_line import counted, out, out_json, say, size, told


def flags() -> argparse.ArgumentParser:
    """The flags of both verbs."""
    root = argparse.ArgumentParser(prog="synthq db", description="Save and restore the whole store.")
    verbs = root.add_subparsers(dest="verb", required=True)
    backup = verbs.add_parser("backup")
    backup.add_argument("--with-artifacts", action="store_true")
    backup.add_argument("--overwrite", action="store_true")
    back = verbs.add_parser("restore")
    back.add_argument("--replace", action="store_true")
    for verb in (backup, back):
        verb.add_argument("--json", action="store_true")
        verb.add_argument("file", type=Path)
    return root


def main(words: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code."""
    given = flags().parse_args(words)
    return told(lambda: _backup(given) if given.verb == "backup" else _restore(given))


def _backup(given: argparse.Namespace) -> int:
    manifest = save(given.file, with_artifacts=given.with_artifacts, overwrite=given.overwrite)
    bytes = given.file.stat().st_size
    if given.json:
        out_json({"file": str(given.file), "bytes": bytes, **manifest})
        return 0
    rows = manifest["rows"]
    files = len(manifest["parts"]) - 1
    what = [counted(rows["job"], "job"), counted(rows["episode"], "episode"), counted(rows["frame"], "frame")]
    what += [counted(files, "artifact file")] if given.with_artifacts else []
    out(f"✓ wrote {given.file} ({size(bytes)}): {', '.join(what)}")
    if not given.with_artifacts and rows["artifact"]:
        say(f"the bytes of {counted(rows['artifact'], 'artifact')} are not in it (--with-artifacts saves them too)")
    for id in manifest["missing"]:
        say(f"artifact {id} is saved as a row alone: its bytes are gone or are not those that were stored")
    return 0


def _restore(given: argparse.Namespace) -> int:
    done = restore(given.file, replace=given.replace)
    if given.json:
        out_json(done)
        return 0
    out("✓ " + _sentence(done))
    if done["kept"]:
        out(f"  the store that was here is now {done['kept']}")
    for path in done["damaged"]:
        say(f"the backup's bytes of {path} are not those that its row tells of; they were not restored")
    if done["unfinished_jobs"]:
        out(
            f"  {counted(done['unfinished_jobs'], 'job')} had not ended and will go on at the next `synthq up`; "
            f"{counted(done['running_steps'], 'step')} that ran will be taken back first"
        )
    return 0


def _sentence(done: dict[str, Any]) -> str:
    what = [counted(done["jobs"], "job"), counted(done["episodes"], "episode"), counted(done["frames"], "frame")]
    what += [counted(done["artifacts"], "artifact file")] if done["artifacts"] else []
    return f"restored {', '.join(what)} into {done['into']}"


if __name__ == "__main__":
    sys.exit(main())
