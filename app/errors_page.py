"""The page about errors, made from ``app.errors``: ``python -m app.errors_page > docs/errors.md``.

The API serves it at /docs/errors, where the ``type`` of every problem leads; the repository holds a copy for readers.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final

from app import errors
from app.errors import Problem, SynthqError

HERE: Final = {
    "invalid_request": (
        422,
        2,
        "A request's body or parameters cannot be right; `errors` names each of them.",
        "spec: is missing",
    ),
    "no_such_path": (
        404,
        6,
        "The API has no such path. The command line takes it as a sign of a wrong address.",
        "no path '/v1/job'",
    ),
    "method_not_allowed": (
        405,
        1,
        "The path does not take this method; `Allow` names those that it takes.",
        "/health does not take PUT (it takes GET)",
    ),
    "http_error": (400, 2, "Any other refusal of the HTTP layer.", "Bad Request"),
    "internal_error": (
        500,
        1,
        "A fault of synthq. The log tells more under the request's id.",
        "the API met an error that it did not expect; its log tells more under request req_1",
    ),
}
"""Problems that the API tells without a class of their own: status, exit code of the command line, meaning, an example."""

EXAMPLES: Final[dict[str, tuple[Any, ...]]] = {
    "SpecProblems": ([Problem(key="eval.seeds", message="no seeds", file="job.toml", line=2)],),
    "BadDataset": ([Problem(key="messages[1].content", message="is empty", file="train.jsonl", line=2)],),
    "BadScores": ([Problem(key="data.1.episode", message="no trace matches 'ep_7'")],),
    "UnknownName": ("thing", "x", ("y",)),
    "UnknownEnvironment": ("craftr", ("crafter",)),
    "UnknownPolicy": ("scriptd", ("random", "scripted")),
    "UnknownKind": ("evl", ("eval", "filter")),
    "UnknownAction": ("jump", ("noop", "do")),
    "JobNotFound": ("job_7",),
    "AmbiguousName": ("job_", ("job_a1", "job_b2")),
    "TraceNotFound": ("ep_7",),
    "FrameNotFound": ("00ff",),
    "ArtifactNotFound": ("art_7",),
    "ModelNotFound": ("qwen",),
    "UploadNotFound": ("up_7",),
    "ArtifactDamaged": ("art_7",),
    "ApiKeyNotFound": ("7gy6fe0h",),
    "ImportNotFound": ("synth_ai.db", ("rollouts.db",)),
    "BodyTooLarge": (4 * 1024 * 1024,),
    "UploadTooLarge": ("train.jsonl", 5 * 10**9, 4 * 10**9),
    "TooManyStreams": (32,),
    "IllegalMove": ("job", "job_a1", "failed", "running"),
    "AlreadyEnded": ("job_a1", "succeeded", "only a queued or running job can be cancelled"),
    "NotComparable": (["temperature: 1.0 (base), 0.7 (tuned)"],),
    "KeyReused": ("nightly-1",),
    "LostStep": ("step_a1", 3),
    "EngineBusy": (256,),
    "EpisodeOver": ("died",),
    "ChildFailed": ("train.jsonl:12: the picture cannot be read",),
}
NAMED: Final[dict[str, dict[str, Any]]] = {
    "ArtifactDamaged": {"wanted": "00ff", "found": "ff00"},
    "BadDataset": {"total": 1, "lines": 20},
    "ChildFailed": {"of": "InvalidInput", "retryable": False},
}
SAID: Final[dict[str, str]] = {
    "SynthqError": "synthq runs from a folder that is not installed, so it has no version; pip install it",
    "InvalidInput": "--concurrency is 0; a worker needs at least 1 slot",
    "BadFlag": "--label foo is no label; it takes KEY=VALUE",
    "NotHere": "the job asks for engine vllm, and this worker starts transformers alone (SYNTHQ_ENGINE=transformers)",
    "BadSource": "old.db is no backup, or it is cut short: `synthq db backup FILE` makes one",
    "BadModel": "/models/tiny is no model: it has neither config.json (a whole model) nor adapter_config.json (an adapter)",
    "BadTrace": "turn 3 has the frame 00ff, and the bytes that came have the sha256 ff00",
    "NotFound": "nothing of that name is in the store",
    "SourceNotFound": "there is no file traces/rollouts.db",
    "NotAllowed": "this server wants an API key, and the request had none that fits",
    "LoopbackOnly": "this server has no API keys and is to be called by a loopback name, not 'example.org'",
    "Conflict": "port 8484 on 127.0.0.1 is taken by another program; set SYNTHQ_API_PORT or give --port",
    "Unavailable": "the database does not answer",
    "BrokerUnavailable": "the broker at redis://127.0.0.1:6379/0 does not answer",
    "StoreUnavailable": "the store does not answer (database is locked); try again",
    "ServerUnreachable": "no synthq server answers at http://127.0.0.1:8484; start one here with `synthq up`, or set SYNTHQ_URL",
    "WaitTimeout": "job_a1 has not ended after 30 s: running",
    "StepCancelled": "the job was cancelled",
    "StepFailed": "min_achievements=99 removed all 10 episodes; the most is 21",
    "StepBlocked": "what every request of this job needs is refused",
    "EngineRefused": "the endpoint api.openai.com refuses gpt-4o (HTTP 401): 'Incorrect API key provided'",
    "BudgetSpent": "the budget is used up: $4.9931 of max_usd = 5 is spent, and the next request could cost $0.0112",
    "ChildDied": "the trainer's child ended (by SIGKILL) in the middle of workers.trainer.rl.update:run",
    "TaskAppRefused": "the task app at http://127.0.0.1:8001 did not wake up within 300 s (status 503); start it",
    "TaskAppFailed": "the task app at http://127.0.0.1:8001 gave no answer to /rollout: it took too long",
    "EngineFailed": "no answer of api.openai.com to gpt-4o within deadline_s = 120",
    "EngineFault": "the reply could not be computed (RuntimeError: CUDA error)",
    "RequestCancelled": "the request was cancelled",
    "BadFrame": "a frame is an 8-bit RGB PNG",
    "BadSnapshot": "these bytes are no snapshot of crafter 1",
    "ReplayMismatch": "turn 12 has the frame 00ff on record, and ff00 when it is played again; was it played elsewhere?",
    "MissingFrame": "frame 00ff is not in the store",
}
"""Examples of classes that take any sentence."""

INTRO: Final = """\
# Errors

Made by `python -m app.errors_page` from `app/errors.py`; do not edit it by hand.

A deliberate error has a code, one sentence, an HTTP status and an exit code. The API answers with `application/problem+json`:
`type` leads to the code on this page, `detail` is the sentence, `retryable` says whether the same request may succeed later, and
`errors` names each problem where there are several. The command line prints `Error: ` and the sentence on stderr, nothing on
stdout, and ends with the exit code.
"""


def classes() -> list[type[SynthqError]]:
    """Every class of ``app.errors``, in the order of the file."""
    return [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, SynthqError)]


def example(kind: type[SynthqError]) -> SynthqError:
    """An error of this class, with a sentence that it may well have."""
    name = kind.__name__
    given = EXAMPLES.get(name) or (SAID[name],)
    return kind(*given, **NAMED.get(name, {}))


def exit_codes() -> Iterator[tuple[int, str]]:
    """Every exit code of the command line, and what it says."""
    yield from (
        (0, "done; for watch, wait and --watch: the job succeeded"),
        (1, "something went wrong"),
        (2, "a flag, a spec or a request cannot be right"),
        (3, "no such job, trace or artifact"),
        (4, "no API key, or one that does not fit"),
        (5, "it does not fit the present state, such as cancelling a job that has ended"),
        (6, "the server, or something behind it, does not answer"),
        (7, "a wait ran out of time"),
        (100, "the job failed"),
        (101, "the job has not ended"),
        (103, "the job was cancelled"),
        (130, "Ctrl-C"),
    )


@lru_cache(maxsize=1)
def page() -> str:
    """The page, as Markdown."""
    parts = [INTRO, "## Exit codes\n", "| exit code | means |\n| --- | --- |"]
    parts += [f"| {code} | {meaning} |" for code, meaning in exit_codes()]
    parts.append("\n## Codes\n")
    for kind in classes():
        error = example(kind)
        meaning = " ".join((inspect.getdoc(kind) or "").split())
        parts.append(_entry(error.code, error.status, error.exit_code, meaning, str(error), retryable=error.retryable))
    parts.append("## Codes of the API alone\n")
    parts += [_entry(code, status, exit, meaning, said) for code, (status, exit, meaning, said) in HERE.items()]
    return "\n".join(parts)


def _entry(code: str, status: int, exit: int, meaning: str, said: str, *, retryable: bool = False) -> str:
    more = ", may be tried again" if retryable else ""
    sentence = "\n".join(f"    {line}" for line in said.splitlines())
    return f'<a id="{code}"></a>\n\n### {code}\n\n{meaning} HTTP {status}, exit code {exit}{more}.\n\n{sentence}\n'


if __name__ == "__main__":
    sys.stdout.write(page())
