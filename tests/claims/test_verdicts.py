"""Effects against their definitions, and the rule at its limits."""

import math

import pandas as pd
import pytest
from scipy.stats import ttest_ind, ttest_rel

from pipeline.claims.book import IntervalRule, MeanRule
from pipeline.claims.measures import Measured
from pipeline.claims.verdicts import Effect, effect, judge, t_quantile
from pipeline.core.errors import InputError

RULE = MeanRule(name="mean", confidence=0.95, least_pairs=3)


def side(**values):
    return Measured(values=pd.Series(values, dtype="float64"))


def made(mean, standard_error=0.1, n=3, degrees=2.0):
    return Effect(mean=mean, spread=1.0, standard_error=standard_error, degrees=degrees, n=n, paired=True)


def test_equal_seeds_are_compared_in_pairs_whatever_their_order():
    base, ablated = side(a=1.0, b=5.0, c=9.0), side(c=10.5, a=2.0, b=6.5)
    found = effect(Measured(values=base.values), Measured(values=ablated.values.sort_index()))
    assert found.paired
    assert found.mean == pytest.approx((1.0 + 1.5 + 1.5) / 3)
    assert found.spread == pytest.approx(math.sqrt(((1 / 3) ** 2 + 2 * (1 / 6) ** 2) / 2))
    assert found.mean / found.standard_error == pytest.approx(
        ttest_rel([2.0, 6.5, 10.5], [1.0, 5.0, 9.0]).statistic, rel=1e-9
    )
    unsorted = effect(base, ablated)
    assert unsorted == found


@pytest.mark.parametrize("ablated", [side(d=5.0, e=9.0, f=6.0, g=8.0), side(d=5.0, e=9.0, f=6.0)])
def test_other_seeds_are_compared_by_their_means(ablated):
    """Also where both sides have as many."""
    found = effect(side(a=1.0, b=2.0, c=4.0), ablated)
    expected = ttest_ind(ablated.values, [1.0, 2.0, 4.0], equal_var=False)
    assert not found.paired
    assert found.n == 3
    assert found.mean / found.standard_error == pytest.approx(expected.statistic)
    assert found.degrees == pytest.approx(expected.df)


def test_two_numbers_of_one_seed_are_refused():
    twice = Measured(values=pd.Series([1.0, 2.0], index=[0, 0]))
    with pytest.raises(InputError, match="same seed"):
        effect(twice, twice)


def test_the_quantile_of_three_pairs_is_wide():
    assert t_quantile(0.95, 2) == pytest.approx(2.92, abs=0.001)
    assert t_quantile(0.95, 1e9) == pytest.approx(1.645, abs=0.001)


def test_the_verdict_at_its_limits():
    limit = t_quantile(0.95, 2) * 0.1
    for mean, least, expected in (
        (limit * 1.001, 0.0, "supported"),
        (limit * 0.999, 0.0, "undecided"),
        (-limit * 1.001, 0.0, "contradicted"),
        (-limit * 0.999, 0.0, "undecided"),
        (1.0, 1.0, "supported"),
        (1.0, 1.0001, "undecided"),
        (-1.0, 1.0, "contradicted"),
        (-1.0, 1.0001, "undecided"),
        (0.0, 0.0, "undecided"),
    ):
        assert judge(RULE, made(mean), claimed="higher", least=least) == (expected, ""), (mean, least)
        turned = judge(RULE, made(-mean), claimed="lower", least=least)
        assert turned == (expected, "")


def test_equal_differences_leave_no_doubt():
    assert judge(RULE, made(0.2, standard_error=0.0), claimed="higher", least=0.1) == ("supported", "")
    assert judge(RULE, made(0.0, standard_error=0.0), claimed="higher", least=0.0) == ("undecided", "")


def test_too_few_numbers_conclude_nothing():
    assert judge(RULE, made(9.0, n=2), claimed="higher", least=0.0) == (
        "not tested",
        "2 of at least 3 numbers a side",
    )
    single = effect(side(a=1.0), side(a=9.0))
    assert judge(RULE, single, claimed="higher", least=0.0)[0] == "not tested"


@pytest.mark.parametrize(
    ("base", "ablated", "least", "expected"),
    [
        ((0.0, 1.0), (2.0, 3.0), 0.0, "supported"),
        ((0.0, 1.0), (2.0, 3.0), 2.5, "undecided"),
        ((0.0, 1.0), (0.9, 3.0), 0.0, "undecided"),
        ((2.0, 3.0), (0.0, 1.0), 0.0, "contradicted"),
        (None, (0.0, 1.0), 0.0, "not tested"),
    ],
)
def test_intervals_must_be_apart(base, ablated, least, expected):
    means = [sum(interval) / 2 if interval else 0.5 for interval in (base, ablated)]
    found = effect(side(all=means[0]), side(all=means[1]))
    verdict, _ = judge(IntervalRule(name="intervals"), found, claimed="higher", least=least, intervals=(base, ablated))
    assert verdict == expected
