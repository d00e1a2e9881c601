"""From the numbers of two arms to an effect and a verdict, by a rule that stands beforehand."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from pipeline.claims.book import IntervalRule, MeanRule
from pipeline.claims.measures import Measured
from pipeline.core.errors import InputError

Verdict = Literal["supported", "contradicted", "undecided", "not tested"]


@dataclass(frozen=True, kw_only=True)
class Effect:
    """ablated - base.

    Attributes
    ----------
    mean : of the pairs where both sides have the same seeds or draws, else the difference of the means
    spread : sample standard deviation of the pairs' differences, else of the difference of two single values; None
        where there is one number a side
    standard_error, degrees : of ``mean``, and of its t distribution; None likewise
    n : pairs, or values of the smaller side
    paired : whether pairs were formed
    """

    mean: float
    spread: float | None
    standard_error: float | None
    degrees: float | None
    n: int
    paired: bool


def effect(base: Measured, ablated: Measured) -> Effect:
    """Compare two sides: in pairs if their indices are equal, else by the means (Welch)."""
    a, b = base.values, ablated.values
    if not a.index.is_unique or not b.index.is_unique:
        message = "two numbers have the same seed or draw"
        raise InputError(message)
    if set(a.index) == set(b.index):
        return _of_pairs((b - a).to_numpy())
    return _of_means(a, b)


def _of_pairs(differences: np.ndarray) -> Effect:
    n, mean = len(differences), float(differences.mean())
    if n < 2:
        return Effect(mean=mean, spread=None, standard_error=None, degrees=None, n=n, paired=True)
    spread = float(differences.std(ddof=1))
    return Effect(mean=mean, spread=spread, standard_error=spread / math.sqrt(n), degrees=n - 1, n=n, paired=True)


def _of_means(a: pd.Series, b: pd.Series) -> Effect:
    mean, n = float(b.mean() - a.mean()), min(len(a), len(b))
    if n < 2:
        return Effect(mean=mean, spread=None, standard_error=None, degrees=None, n=n, paired=False)
    of_a, of_b = float(a.var(ddof=1)) / len(a), float(b.var(ddof=1)) / len(b)
    squares = of_a**2 / (len(a) - 1) + of_b**2 / (len(b) - 1)
    return Effect(
        mean=mean,
        spread=math.sqrt(float(a.var(ddof=1)) + float(b.var(ddof=1))),
        standard_error=math.sqrt(of_a + of_b),
        degrees=(of_a + of_b) ** 2 / squares if squares else float(n - 1),
        n=n,
        paired=False,
    )


def judge(
    rule: MeanRule | IntervalRule,
    found: Effect,
    *,
    claimed: Literal["higher", "lower"],
    least: float,
    intervals: tuple[tuple[float, float] | None, tuple[float, float] | None] = (None, None),
) -> tuple[Verdict, str]:
    """The verdict, and why there is none.

    ``supported``: the effect has the claimed sign, is at least ``least``, and the rule says that chance does not
    explain it. ``contradicted``: the same with the other sign. Else ``undecided``.

    Parameters
    ----------
    intervals : of base and ablated, for an interval rule
    """
    if isinstance(rule, IntervalRule):
        base, ablated = intervals
        if base is None or ablated is None:
            return "not tested", "these results have no intervals"
        beyond_chance = ablated[0] > base[1] or ablated[1] < base[0]
    else:
        if found.n < rule.least_pairs or found.standard_error is None or found.degrees is None:
            return "not tested", f"{found.n} of at least {rule.least_pairs} numbers a side"
        beyond_chance = abs(found.mean) > t_quantile(rule.confidence, found.degrees) * found.standard_error
    if not beyond_chance or abs(found.mean) < least or found.mean == 0:
        return "undecided", ""
    return ("supported" if (found.mean > 0) == (claimed == "higher") else "contradicted"), ""


def t_quantile(confidence: float, degrees: float) -> float:
    """Standard errors that the mean of a sample stays below with this confidence, one-sided."""
    from scipy.stats import t

    return float(t.ppf(confidence, degrees))
