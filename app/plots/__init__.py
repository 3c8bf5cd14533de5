"""The job kinds there are. Adding one: a spec, a plot, a line here."""

from __future__ import annotations

from app.errors import UnknownKind
from app.models import Queue
from app.plots.base import Plot
from app.plots.eval import EvalPlot
from app.plots.rl import RlPlot
from app.plots.single import SingleStep

PLOTS: dict[str, Plot] = {
    "eval": EvalPlot(),
    "filter": SingleStep("filter"),
    "sft": SingleStep("sft", Queue.TRAINER),
    "rl": RlPlot(),
    "noop": SingleStep("noop"),  # does nothing; what the core itself costs is measured with it
}


def plot_of(kind: str) -> Plot:
    """The plot of a job kind. Raises UnknownKind."""
    if kind not in PLOTS:
        raise UnknownKind(kind, PLOTS)
    return PLOTS[kind]
