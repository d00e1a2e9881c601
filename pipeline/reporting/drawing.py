"""What every figure is made with: a canvas without a window system, and a PNG whose bytes repeat."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from pipeline.core.files import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

Metrics = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A figure, its headline numbers for ``dvc metrics``, and all numbers behind it as a table.

    A picture that is laid out pixel by pixel is an ``Image``.
    """

    figure: "Figure | Image"
    metrics: Metrics
    numbers: pd.DataFrame


def save(figure: "Figure | Image", out: Path) -> None:
    """Write a PNG without date or versions, so that the same figure has the same bytes."""
    from PIL.Image import Image

    with whole_file(out) as partial:
        if isinstance(figure, Image):
            figure.save(partial, format="PNG", optimize=True)
            return
        figure.savefig(partial, format="png", dpi=110, metadata={"Software": None}, bbox_inches="tight")


def canvas(*, columns: int, size: tuple[float, float], rows: int = 1) -> tuple["Figure", list[Any]]:
    """A figure of ``size`` inches and its axes, row by row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)  # no window system, no global state
    return figure, [figure.add_subplot(rows, columns, number + 1) for number in range(rows * columns)]


def say(axis: Any, text: str) -> None:
    """Words where a plot would be."""
    axis.set_axis_off()
    axis.text(0.5, 0.5, text, ha="center", va="center", transform=axis.transAxes)


def empty(text: str, columns: Iterable[str] | None = None) -> Drawn:
    """A canvas that says why nothing is drawn; ``columns`` are those that the numbers would have."""
    figure, (axis,) = canvas(columns=1, size=(6.0, 1.0))
    say(axis, text)
    numbers = pd.DataFrame({"note": [text]}) if columns is None else pd.DataFrame(columns=pd.Index(columns))
    return Drawn(figure=figure, metrics={"n_results": 0}, numbers=numbers)
