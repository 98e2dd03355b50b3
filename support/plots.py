"""How every plot looks: one style, colours that colour-blind readers tell apart, and files that are always the same.

    with plot_style():
        figure = new_figure(figsize=(8, 3))
        ...
        save_figure(figure, Path("plot.png"))

Colours are Okabe and Ito's. What differs in colour differs in shape or in its line, too, so that a print in black says
the same; the paper is white, so that a page in dark mode does not swallow the words.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from support.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X")
LINES: Final = ("-", "--", "-.", ":")
GREY: Final = "#666666"

_STYLE: Any = {
    "svg.hashsalt": "vlm-harness",
    "text.parse_math": False,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "savefig.facecolor": "white",
}
_DPI: Final = 150


@contextmanager
def plot_style() -> Iterator[None]:
    """Inside, figures have the style."""
    import matplotlib as mpl

    with mpl.rc_context(_STYLE):
        yield


def new_figure(**kwargs: Any) -> "Figure":
    """A figure of no window, which needs no closing."""
    from matplotlib.figure import Figure

    return Figure(layout="constrained", **kwargs)


def line_styles() -> Iterator[dict[str, Any]]:
    """Colour, marker and line of one series after the other, without end."""
    for color, marker, line in zip(cycle(COLOURS), cycle(MARKERS), cycle(LINES), strict=True):
        yield {"color": color, "marker": marker, "linestyle": line}


def save_figure(figure: "Figure", path: Path) -> None:
    """As PNG or SVG, by the path's suffix; as a whole or not at all. Neither date nor version: the same numbers are the
    same file."""
    metadata = {"Software": None} if path.suffix == ".png" else {"Date": None, "Creator": None}
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=_DPI, metadata=metadata)
