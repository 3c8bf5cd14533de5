"""What every picture is drawn on: one look, one palette, and the ways out as PNG and as SVG."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any, Final

from app.errors import NotHere

PALETTE: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#4d4d4d", "#8c6d31")
"""Colours that are told apart also by those who see fewer of them."""
INK: Final = "#22262b"
FAINT: Final = "#8a9099"
GRID: Final = "#e6e8eb"
GOOD, BAD, EVEN = "#009e73", "#d55e00", "#9aa1a9"
"""More than nothing for certain, less for certain, and what may be nothing."""
DOTS_PER_INCH: Final = 144

STYLE: Final[dict[str, Any]] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "white",
    "svg.hashsalt": "synthq",
    "svg.fonttype": "path",
}

Draw = Callable[[Any], None]
"""Draws on a figure of matplotlib's."""


def drawn(draw: Draw, *, width: float, height: float, form: str = "png") -> bytes:
    """A picture of so many inches, as PNG or SVG bytes; the same data give the same bytes. Raises NotHere without matplotlib."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError as error:
        raise NotHere("pictures need matplotlib; `pip install -e '.[plots]'` in synthq's folder brings it") from error
    style: dict[Any, Any] = {**matplotlib.rcParamsDefault, **STYLE}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.09, h_pad=0.09))
        draw(figure)
        out = BytesIO()
        plain = {"Date": None} if form == "svg" else {"Software": None}
        figure.savefig(out, format=form, dpi=DOTS_PER_INCH, metadata=plain)
    return out.getvalue()


def colour(place: int) -> str:
    """The colour of an arm or a curve by its place; after the last they come again."""
    return PALETTE[place % len(PALETTE)]
