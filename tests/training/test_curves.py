"""The plotted curves: means over the seeds, thinned, but from the first to the last logged step."""

import numpy as np
import pandas as pd
import pytest

from pipeline.training.curves import MOST_ROWS, training_curves

COLUMNS = ["step", "epoch", "learning_rate", "d_loss", "g_loss", "d_real", "d_fake"]


def history(n: int, seeds: tuple[int, ...] = (0, 1, 5)) -> pd.DataFrame:
    """``n`` logged steps a seed, seeds one after the other; every value is a function of seed and step."""
    step = 20 * np.arange(1, n + 1)
    made = []
    for seed in seeds:
        values = {name: np.sin(step + seed**2 + k) for k, name in enumerate(COLUMNS[3:])}
        made.append(pd.DataFrame({"seed": seed, "step": step, "epoch": step // 391, "learning_rate": 2e-4, **values}))
    return pd.concat(made, ignore_index=True)


@pytest.mark.parametrize("n", [201, 250, 399, 3910])
def test_long_histories_are_thinned_evenly(n: int):
    curves = training_curves(history(n))
    assert curves.columns.tolist() == COLUMNS
    assert len(curves) == MOST_ROWS == 200
    assert curves["step"].iloc[0] == 20
    assert curves["step"].iloc[-1] == 20 * n
    gaps = curves["step"].diff().dropna()
    assert gaps.min() >= 20
    assert gaps.max() - gaps.min() <= 20, "evenly, to one row"


@pytest.mark.parametrize("n", [1, 5, 200])
def test_short_histories_keep_every_step(n: int):
    assert training_curves(history(n))["step"].tolist() == [20 * (i + 1) for i in range(n)]


def test_rows_are_means_over_the_seeds():
    full = history(700)
    curves = training_curves(full)
    for row in curves.iloc[[0, 7, 100, 199]].to_dict("records"):
        for k, name in enumerate(COLUMNS[3:]):
            expected = sum(np.sin(row["step"] + seed**2 + k) for seed in (0, 1, 5)) / 3
            assert row[name] == pytest.approx(expected, rel=1e-12)
        assert row["epoch"] == row["step"] // 391
        assert row["learning_rate"] == pytest.approx(2e-4, rel=1e-12)
    assert curves["epoch"].dtype.kind == "i"


def test_intervals_without_an_update_stay_empty():
    full = history(3)
    full.loc[full["step"] == 40, "g_loss"] = np.nan
    assert training_curves(full)["g_loss"].isna().tolist() == [False, True, False]


def test_the_history_is_not_changed():
    full = history(300)
    before = full.copy(deep=True)
    training_curves(full)
    pd.testing.assert_frame_equal(full, before, check_exact=True)
