"""What every figure is made with: a canvas without a window system, and a PNG whose bytes repeat."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from pipeline.core.files import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Metrics = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A figure, its headline numbers for ``dvc metrics``, and all numbers behind it as a table."""

    figure: "Figure"
    metrics: Metrics
    numbers: pd.DataFrame


def save(figure: "Figure", out: Path) -> None:
    """Write a PNG without date or versions, so that the same figure has the same bytes."""
    with whole_file(out) as partial:
        figure.savefig(partial, format="png", dpi=110, metadata={"Software": None}, bbox_inches="tight")


def canvas(*, columns: int, size: tuple[float, float], rows: int = 1) -> tuple["Figure", list[Any]]:
    """A figure of ``size`` inches and its axes, row by row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)  # no window system, no global state
    return figure, [figure.add_subplot(rows, columns, number + 1) for number in range(rows * columns)]
