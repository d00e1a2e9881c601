"""The learning curve: whether people get better at telling generated images, screen by screen.

Improved GAN, section 4: results change drastically when annotators are shown their mistakes. It prints no curve.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipeline.evaluation.intervals import wilson
from pipeline.reporting import drawing
from pipeline.turing.deck import Deck
from pipeline.turing.published import CORRECT, PUBLISHED
from pipeline.turing.rounds import Mode

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCREENS_A_BIN = 5
NO_DECKS = "This profile has no deck yet."
CHANCE = 50.0  # percent: half of a deck is generated
COLUMNS = (
    "deck",
    "mode",
    "first_screen",
    "last_screen",
    "n_annotators",
    "n_votes",
    "percent_correct_mean",
    "spread",
    "percent_correct",
    "percent_correct_low",
    "percent_correct_high",
)
COLOURS: dict[Mode, str] = {"feedback": "tab:blue", "plain": "tab:orange"}
LABELS: dict[Mode, str] = {"feedback": "mistakes shown", "plain": "no feedback"}
SHIFTS: dict[Mode, float] = {"feedback": 0.3, "plain": -0.3}  # of a point, in screens: bars do not cover each other
NOBODY = "Nobody has voted yet."


def curve(decks: Mapping[str, Deck], votes: pd.DataFrame) -> pd.DataFrame:
    """Percentage correct in bins of five screens, which are numbered from 1.

    ``percent_correct_mean`` and ``spread`` are mean and sample standard deviation over the annotators, each with one
    share a bin; ``percent_correct`` and its Wilson interval are of all votes. Late bins are of those who stayed.
    """
    rows: list[tuple[Any, ...]] = []
    for deck in decks.values():
        mine = votes[votes["deck"] == deck.sha256]
        for (mode, _), binned in mine.groupby(["mode", mine["screen"] // SCREENS_A_BIN], sort=True):
            right = binned["truth"] == binned["answer"]
            shares = 100 * right.groupby(binned["annotator"]).mean()
            low, high = wilson(int(right.sum()), len(right))
            first = int(binned["screen"].min()) // SCREENS_A_BIN * SCREENS_A_BIN + 1
            spread = float(shares.std(ddof=1)) if len(shares) > 1 else np.nan
            head = (deck.name, mode, first, first + SCREENS_A_BIN - 1, len(shares), len(right))
            rows.append((*head, float(shares.mean()), spread, 100 * float(right.mean()), 100 * low, 100 * high))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def draw(decks: Mapping[str, Deck], numbers: pd.DataFrame) -> "Figure":
    """A panel a deck: mean over the annotators with Wilson bars of all votes, chance, and the paper's number."""
    figure, axes = drawing.canvas(columns=max(1, len(decks)), size=(4.6 * max(1, len(decks)), 3.8))
    if not decks:
        drawing.say(axes[0], NO_DECKS)
        return figure
    figure.suptitle(f"{SCREENS_A_BIN} screens a point; bars: 95 % interval of all their votes", fontsize=9)
    for axis, deck in zip(axes, decks.values(), strict=True):
        mine = numbers[numbers["deck"] == deck.name]
        axis.set_title(deck.title, fontsize=10)
        axis.set(xlabel="screens answered", ylabel="% correct, mean over annotators", ylim=(0, 102))
        axis.axhline(CHANCE, color="grey", linestyle="--", linewidth=1, label="chance")
        for printed in PUBLISHED.get(deck.name, ()):
            if printed.column == CORRECT:
                axis.axhline(
                    printed.value, color="black", linestyle=":", linewidth=1, label=f"paper, {printed.value} %"
                )
        for mode, colour in COLOURS.items():
            _draw_mode(axis, mine[mine["mode"] == mode], colour, LABELS[mode], SHIFTS[mode])
        if mine.empty:
            axis.text(0.5, 0.2, NOBODY, ha="center", va="center", transform=axis.transAxes)
            axis.set_xticks([])
        axis.legend(fontsize=7, loc="lower right")
    return figure


def _draw_mode(axis: Any, rows: pd.DataFrame, colour: str, label: str, shift: float) -> None:
    if rows.empty:
        return
    middle = (rows["first_screen"] + rows["last_screen"]) / 2 + shift
    axis.vlines(middle, rows["percent_correct_low"], rows["percent_correct_high"], color=colour, linewidth=1)
    axis.plot(
        middle,
        rows["percent_correct_mean"],
        color=colour,
        marker="o",
        markersize=4,
        label=f"{label}, {rows['n_votes'].sum():,} votes",
    )
