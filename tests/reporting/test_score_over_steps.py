"""The figure of scores over the steps: means over seeds, one measure for all rows, real images beside them."""

import pandas as pd
import pytest

from pipeline.reporting.figures import FIGURES
from pipeline.reporting.rows import NOT_RUN
from pipeline.reporting.score_tables import RUNS

DRAW = FIGURES["score_over_steps"]


def write(results, name, scores, measure="classifier_score"):
    """``scores`` : (seed, step) -> value."""
    rows = [(seed, step, measure, value, 400) for (seed, step), value in scores.items()]
    table = pd.DataFrame(rows, columns=["seed", "step", "quantity", "value", "n_images"])
    path = results / f"{name}.parquet"
    if path.is_file():
        table = pd.concat([pd.read_parquet(path), table], ignore_index=True)
    table.to_parquet(path, index=False)


def lines(drawn):
    (axis,) = drawn.figure.axes
    return {line.get_label(): line.get_ydata() for line in axis.get_lines()}


def test_a_line_is_the_mean_over_the_seeds(tmp_path):
    write(tmp_path, "is_ours", {(0, 5): 2.0, (0, 10): 4.0, (1, 5): 3.0, (1, 10): 3.0})
    write(tmp_path, "is_bn", {(0, 10): 1.5, (0, 20): 2.5})
    write(tmp_path, "real", {(-1, -1): 9.0})
    drawn = DRAW(tmp_path)
    assert drawn.metrics == {
        "is_ours": {"step_5": 2.5, "step_10": 3.5},
        "is_bn": {"step_10": 1.5, "step_20": 2.5},
        "real": 9.0,
    }
    assert [*drawn.numbers.columns] == ["step", "is_ours", "is_bn"]
    assert drawn.numbers["step"].tolist() == [5, 10, 20]
    assert drawn.numbers["is_bn"].isna().tolist() == [True, False, False]
    drawn_lines = lines(drawn)
    assert {*drawn_lines} == {"Our methods", "-VBN+BN", "Real data"}
    assert drawn_lines["Our methods"].tolist() == [2.5, 3.5]
    (axis,) = drawn.figure.axes
    band = axis.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (2.0, 4.0)
    assert "of 400 images a seed" in axis.get_title()


def test_rows_that_were_not_run_are_named(tmp_path):
    write(tmp_path, "is_ours", {(0, 5): 2.0})
    drawn = DRAW(tmp_path)
    others = [row for row, name in RUNS.items() if name != "is_ours"]
    assert drawn.figure.get_suptitle() == f"{NOT_RUN}: {', '.join(others)}"
    assert drawn.metrics == {"is_ours": {"step_5": 2.0}}


@pytest.mark.parametrize(("with_inception", "value"), [(("is_ours", "is_bn"), 6.0), (("is_ours",), 2.0)])
def test_rows_are_drawn_by_one_measure(tmp_path, with_inception, value):
    """Inception's where every row has it; scores of two networks never share an axis."""
    for name in ("is_ours", "is_bn"):
        write(tmp_path, name, {(0, 5): 2.0})
    for name in with_inception:
        write(tmp_path, name, {(0, 5): 6.0}, "inception_score")
    drawn = DRAW(tmp_path)
    assert drawn.metrics == {name: {"step_5": value} for name in ("is_ours", "is_bn")}
    (axis,) = drawn.figure.axes
    assert axis.get_title().startswith("Inception score" if value == 6 else "classifier score, ours")


def test_real_images_alone_are_nothing_to_draw(tmp_path):
    write(tmp_path, "real", {(-1, -1): 9.0})
    assert DRAW(tmp_path).metrics == {"n_results": 0}
