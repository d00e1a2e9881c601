"""Improved GAN's Table 3 from hand-made scores: every printed row, means and both spreads, nothing invented."""

import json
import math

import made_scores as made
import numpy as np
import pandas as pd
import pytest

from pipeline import papers
from pipeline.core import records
from pipeline.core.errors import InputError
from pipeline.reporting import score_tables
from pipeline.reporting.rows import NOT_RUN, Report
from pipeline.reporting.score_tables import OUR_NETWORK, RUNS, Mean, improved_table3, orderings, standard_error
from pipeline.reporting.tables import TABLES

PRINTED = [  # Improved GAN, Table 3
    ("Real data", 11.24, 0.12),
    ("Our methods", 8.09, 0.07),
    ("-VBN+BN", 7.54, 0.07),
    ("-L+HA", 6.86, 0.06),
    ("-LS", 6.83, 0.06),
    ("-L", 4.36, 0.04),
    ("-MBF", 3.87, 0.03),
]
MEASURES = ("score", "score_split_spread", "frechet", "kernel", "precision", "recall", "density", "coverage")
GATE = {"sha256": "0" * 64, "gate": 11.237}


def report(comparable="no", **notes):
    return Report(comparable=comparable, notes=notes, datasets={"cifar10": "what CIFAR-10 is"})


def table(folder, comparable="no", **notes):
    rows = improved_table3(folder, report(comparable, **notes))
    found = {(row.row, row.column): row for row in rows}
    assert len(found) == len(rows)
    return found


# ---- the published numbers ------------------------------------------------------------------------------------------


def test_published_numbers_are_the_papers():
    found = [(p.row, p.column, p.value, p.spread, p.unit, p.kind, p.source) for p in papers.IMPROVED_TABLE3]
    source = "Improved GAN, Table 3"
    assert found == [(row, "inception_score", mean, sd, "score", "ours", source) for row, mean, sd in PRINTED]
    assert tuple(RUNS.values()) == made.NAMES
    assert TABLES["improved_table3"][1] is improved_table3


def test_every_printed_row_in_order_where_nothing_was_run(tmp_path):
    rows = improved_table3(tmp_path / "missing", report())
    assert [(r.row, r.paper, r.paper_spread) for r in rows] == PRINTED
    assert {r.column for r in rows} == {"inception_score"}
    assert {(r.measured, r.spread, r.note, r.dataset) for r in rows} == {(None, None, NOT_RUN, "what CIFAR-10 is")}


def test_published_rows_come_first_then_our_columns_each_in_the_papers_order(tmp_path):
    made.write_table3(tmp_path)
    rows = improved_table3(tmp_path, report())
    names = [row for row, *_ in PRINTED]
    wanted = [(row, "inception_score", "ours") for row in names]
    wanted += [(row, f"classifier_{measure}", "extra") for measure in MEASURES for row in names]
    wanted.append(("Real data", "classifier_accuracy", "extra"))
    assert [(r.row, r.column, r.kind) for r in rows] == wanted
    assert all(r.paper is None for r in rows if r.kind == "extra")


# ---- definitions ----------------------------------------------------------------------------------------------------


def test_a_score_is_a_mean_over_seeds_of_means_over_splits(tmp_path):
    made.write_scores(tmp_path, "is_ours", (3.0, 3.5, 4.3), split_sd=0.2)
    row = table(tmp_path)["Our methods", "classifier_score"]
    values = pd.read_parquet(tmp_path / "is_ours.parquet").query("quantity == 'classifier_score'")
    means = [sum(v for s, v in zip(values["seed"], values["value"], strict=True) if s == k) / 10 for k in range(3)]
    mean = sum(means) / 3
    assert row.measured == pytest.approx(mean)
    assert row.spread == pytest.approx(math.sqrt(sum((m - mean) ** 2 for m in means) / 2))
    assert (row.spread_over, row.n_seeds, row.n_images, row.n_labels) == ("seeds", 3, 50_000, 50_000)
    assert row.unit == "score"


def test_both_spreads_are_visible(tmp_path):
    made.write_scores(tmp_path, "is_ours", (3.0, 3.5, 4.3), split_sd=0.2)
    found = table(tmp_path)
    row = found["Our methods", "classifier_score_split_spread"]
    values = pd.read_parquet(tmp_path / "is_ours.parquet").query("quantity == 'classifier_score'")
    deviations = [np.sqrt(np.mean((v - v.mean()) ** 2)) for _, v in values.groupby("seed")["value"]]
    assert row.measured == pytest.approx(np.mean(deviations)) == pytest.approx(0.2)
    assert row.spread_over == "seeds"
    assert found["Our methods", "classifier_score"].spread == pytest.approx(np.std([3.0, 3.5, 4.3], ddof=1))


def test_one_seed_has_the_population_deviation_over_its_splits(tmp_path):
    made.write_scores(tmp_path, "is_bn", (4.0,), split_sd=0.3)
    found = table(tmp_path)
    row = found["-VBN+BN", "classifier_score"]
    assert (row.measured, row.spread, row.spread_over) == (pytest.approx(4.0), pytest.approx(0.3), "splits")
    assert (row.n_seeds, found["-VBN+BN", "classifier_score_split_spread"].spread) == (1, None)
    assert found["-VBN+BN", "classifier_frechet"].spread is None


def test_one_split_of_one_seed_has_no_spread(tmp_path):
    made.write_scores(tmp_path, "is_bn", (4.0,), n_splits=1)
    found = table(tmp_path)
    row = found["-VBN+BN", "classifier_score"]
    assert (row.spread, row.spread_over) == (None, "")
    assert ("-VBN+BN", "classifier_score_split_spread") not in found
    assert "one split instead of 10" in row.note


def test_real_data_have_no_seeds_and_carry_the_accuracy(tmp_path):
    made.write_table3(tmp_path)
    found = table(tmp_path)
    row = found["Real data", "classifier_score"]
    assert (row.measured, row.spread_over, row.n_seeds, row.n_labels) == (pytest.approx(6.0), "splits", None, None)
    assert row.note == f"{OUR_NETWORK}; 50,000 training images; 10 splits; {score_tables.LEARNT}"
    accuracy = found["Real data", "classifier_accuracy"]
    assert (accuracy.measured, accuracy.unit, accuracy.kind) == (80.5, "percent_accuracy", "extra")
    assert [place for place in found if place[1] == "classifier_accuracy"] == [("Real data", "classifier_accuracy")]


def test_distances_and_neighbours_say_on_what(tmp_path):
    made.write_table3(tmp_path)
    found = table(tmp_path)
    factors = [1.0, 1.1, 1.2]
    for measure, value in made.BESIDE.items():
        row = found["-L", f"classifier_{measure}"]
        scale = 1000 if measure == "kernel" else 1
        assert row.measured == pytest.approx(scale * value * 1.1)
        assert row.spread == pytest.approx(scale * value * np.std(factors, ddof=1))
        near = measure in ("precision", "recall", "density", "coverage")
        assert row.n_images == (10_000 if near else 50_000)
        assert f"against {'as many' if near else '50,000'} training images" in row.note
    assert found["Real data", "classifier_frechet"].note == f"{OUR_NETWORK}; against 10,000 test images"


# ---- Inception score ------------------------------------------------------------------------------------------------


def test_without_the_network_the_papers_column_is_empty_with_the_reason(tmp_path):
    made.write_table3(tmp_path)
    found = table(tmp_path)
    for row, *_ in PRINTED:
        cell = found[row, "inception_score"]
        assert (cell.measured, cell.spread, cell.note) == (None, None, made.NO_NETWORK)
    assert not any(column.startswith("inception_") for _, column in found if column != "inception_score")


def test_no_measured_number_comes_from_the_paper(tmp_path):
    """The classifier's scores never enter the paper's column, and the paper's never what was measured."""
    for paper_like in (False, True):
        for name, (_, value, _) in zip(made.NAMES, PRINTED, strict=True):
            made.write_scores(tmp_path, name, (value + 0.001 * paper_like,) * (1 if name == "real" else 3))
        found = table(tmp_path, "yes")
        assert all(cell.measured is None for (_, column), cell in found.items() if column == "inception_score")
        for row, value, _ in PRINTED:
            cell = found[row, "classifier_score"]
            assert cell.measured == pytest.approx(value + 0.001 * paper_like, abs=1e-9)
            assert (cell.paper, cell.paper_spread, cell.comparable, cell.source) == (None, None, "no", "ours")


def test_with_the_network_its_scores_stand_beside_the_papers(tmp_path):
    for number, name in enumerate(made.NAMES):
        n = 1 if name == "real" else 3
        means = tuple(8.0 - number + shift for shift in (0.0, 0.3, 0.6)[:n])
        made.write_scores(tmp_path, name, (2.0,) * n, inception=GATE, inception_means=means, split_sd=0.1)
    found = table(tmp_path, "yes")
    row = found["Our methods", "inception_score"]
    assert (row.paper, row.measured, row.spread) == (8.09, pytest.approx(7.3), pytest.approx(0.3))
    assert (row.spread_over, row.comparable) == ("seeds", "yes")
    assert row.note.endswith("; gate: real CIFAR-10 gives 11.237")
    assert found["Our methods", "classifier_score"].measured == pytest.approx(2.0)
    assert found["Our methods", "inception_score_split_spread"].measured == pytest.approx(0.1)
    assert found["-L", "inception_frechet"].unit == "distance"
    assert OUR_NETWORK not in found["-L", "inception_frechet"].note
    columns = list(dict.fromkeys(column for _, column in found))
    assert columns.index("inception_score") < columns.index("classifier_score") < columns.index("inception_frechet")


@pytest.mark.parametrize("gate", [11.21, 11.27, 9.7, float("nan")])
def test_no_inception_score_where_the_gate_did_not_hold(tmp_path, gate):
    made.write_scores(tmp_path, "is_ours", inception={"sha256": "", "gate": gate}, inception_means=(8.0,))
    found = table(tmp_path, "yes")
    cell = found["Our methods", "inception_score"]
    assert cell.measured is None
    assert "its gate did not hold: real CIFAR-10 must give 11.24 +- 0.02" in cell.note
    assert not any(column.startswith("inception_") for _, column in found if column != "inception_score")


@pytest.mark.parametrize("gate", [11.221, 11.259])
def test_the_gate_has_a_tolerance(tmp_path, gate):
    made.write_scores(tmp_path, "is_ours", inception={"sha256": "", "gate": gate}, inception_means=(8.0,))
    assert table(tmp_path)["Our methods", "inception_score"].measured == pytest.approx(8.0)


# ---- how it is to be read -------------------------------------------------------------------------------------------


def test_notes_list_what_the_paper_leaves_open(tmp_path):
    made.write_table3(tmp_path)
    assert table(tmp_path, is_ours="a short schedule")["Our methods", "classifier_score"].note == (
        f"{OUR_NETWORK}; 50,000 samples of each seed; 10 splits; 3 seeds, 1,200 epochs, 600,000 steps of D of 100 "
        "images; chosen by us, the paper does not say: 50,000 labels, target of real images 0.9, minibatch_conv with "
        "128 maps in G and 96 in D, 100 minibatch features, virtual batch norm of 100 examples, loss of G minimax, 3 "
        "updates of G for each of D, learning rate 0.0003; a short schedule"
    )


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("-VBN+BN", "virtual batch norm off instead of 100 examples"),
        ("-L+HA", "labels 0 instead of 50,000, historical averaging 0.1 instead of off"),
        ("-LS", "target of real images 1 instead of 0.9"),
        ("-L", "labels 0 instead of 50,000"),
        ("-MBF", "minibatch kernels 0 instead of 100"),
    ],
)
def test_an_ablation_says_what_it_takes_away(tmp_path, row, told):
    made.write_table3(tmp_path)
    note = table(tmp_path)[row, "classifier_score"].note
    assert note.endswith(f"600,000 steps of D of 100 images; {told}, all else as in Our methods")
    assert "row's name" not in note


INCEPTION = {"inception": GATE, "inception_means": (5.0,) * 3}


def test_a_row_that_changes_more_than_its_name_says_so(tmp_path):
    made.write_table3(tmp_path, **INCEPTION)
    made.write_scores(tmp_path, "is_bn", (3.0,) * 3, generator_width=64, real_target=0.8, **INCEPTION)
    found = table(tmp_path, "yes")
    row = found["-VBN+BN", "inception_score"]
    assert "width of G 64 instead of 128, virtual batch norm off instead of 100 examples, target of real" in row.note
    assert "; beyond what the row's name says: width of G, target of real images" in row.note
    assert (row.comparable, found["-LS", "inception_score"].comparable) == ("reduced", "yes")


@pytest.mark.parametrize(
    ("run", "settings", "told"),
    [
        ("is_ours", {"reference_batch": 0, "n_labels": 0}, "labels off, virtual batch norm off"),
        ("is_ours", {"historical_averaging": 0.1}, "historical averaging on"),
        ("is_bn", {"reference_batch": 100}, "virtual batch norm on"),
        ("is_nolabels_ha", {"historical_averaging": 0.0}, "historical averaging off"),
        ("is_nosmooth", {"real_target": 0.9}, "label smoothing on"),
        ("is_nolabels", {"n_labels": 10}, "labels on"),
        ("is_nominibatch", {"n_kernels": 5}, "minibatch features on"),
    ],
)
def test_a_row_that_is_not_what_its_name_says_tells_so(tmp_path, run, settings, told):
    made.write_table3(tmp_path, **INCEPTION)
    (row,) = (row for row, name in RUNS.items() if name == run)
    assert "against the row's name" not in table(tmp_path, "yes")[row, "inception_score"].note
    made.write_scores(tmp_path, run, (3.0,) * 3, **settings, **INCEPTION)
    cell = table(tmp_path, "yes")[row, "inception_score"]
    assert f"; against the row's name: {told}; " in cell.note
    assert cell.comparable == "reduced"


def test_another_schedule_than_that_of_our_methods_is_told(tmp_path):
    made.write_table3(tmp_path)
    made.write_scores(tmp_path, "is_nolabels", (3.0,) * 3, record={"steps": 9, "epochs": 1})
    note = table(tmp_path)["-L", "classifier_score"].note
    assert "3 seeds, one epoch, 9 steps of D" in note
    assert note.endswith("not as in Our methods: epochs, steps")


def test_without_our_methods_a_row_lists_its_own_choices(tmp_path):
    made.write_scores(tmp_path, "is_nolabels_ha", (3.0,) * 3)
    note = table(tmp_path)["-L+HA", "classifier_score"].note
    assert "chosen by us, the paper does not say: no labels, target" in note
    assert note.endswith("historical averaging of weight 0.1")


def test_fewer_images_and_splits_are_told_and_make_the_row_reduced(tmp_path):
    made.write_scores(
        tmp_path, "is_ours", (3.0,) * 3, n_images=5000, n_splits=5, inception=GATE, inception_means=(5.0,) * 3
    )
    row = table(tmp_path, "yes")["Our methods", "inception_score"]
    assert row.note.startswith("5,000 samples of each seed instead of 50,000; 5 splits instead of 10; 3 seeds")
    assert (row.comparable, row.n_images) == ("reduced", 5000)


@pytest.mark.parametrize(("comparable", "real"), [("yes", "yes"), ("reduced", "yes"), ("no", "no")])
def test_real_images_need_no_schedule(tmp_path, comparable, real):
    made.write_table3(tmp_path, inception=GATE, inception_means=(5.0,) * 3)
    found = table(tmp_path, comparable)
    assert found["Real data", "inception_score"].comparable == real
    assert found["Our methods", "inception_score"].comparable == comparable
    assert {cell.comparable for (_, column), cell in found.items() if column.startswith("classifier")} == {"no"}


def test_rows_that_were_not_run_stay_empty_with_a_note(tmp_path):
    made.write_scores(tmp_path, "is_nosmooth", (3.0,) * 3)
    found = table(tmp_path)
    assert found["-L", "inception_score"].note == NOT_RUN
    assert ("-L", "classifier_score") not in found
    assert found["-LS", "inception_score"].note == made.NO_NETWORK
    assert found["Real data", "classifier_accuracy"].measured == 80.5, "it is in every file"


def test_the_three_files_of_a_table(tmp_path):
    made.write_table3(tmp_path)
    rows = improved_table3(tmp_path, report())
    paths = {"csv": tmp_path / "t.csv", "md": tmp_path / "t.md", "metrics": tmp_path / "m.json"}
    records.write_table(rows, "T", **paths)
    metrics = json.loads(paths["metrics"].read_text())
    assert list(metrics) == ["real_data", "our_methods", "vbn_bn", "l_ha", "ls", "l", "mbf"]
    assert metrics["l"]["classifier_score"] == pytest.approx(3.0)
    assert "inception_score" not in metrics["l"]
    assert pd.read_csv(paths["csv"])["row"].tolist()[:7] == [row for row, *_ in PRINTED]


# ---- damaged files --------------------------------------------------------------------------------------------------


def refused(folder, match):
    with pytest.raises(InputError, match=match):
        improved_table3(folder, report())


@pytest.mark.parametrize(("gone", "there"), [("parquet", "json"), ("json", "parquet")])
def test_half_a_result_is_refused(tmp_path, gone, there):
    made.write_scores(tmp_path, "is_bn")
    (tmp_path / f"is_bn.{gone}").unlink()
    refused(tmp_path, rf"is_bn\.{gone}: missing beside is_bn\.{there}; run score@is_bn again")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b"\xff", b'{"run": "is_bn", "params": 3, "inception": 1}']
)
def test_a_damaged_record_is_refused(tmp_path, content):
    made.write_scores(tmp_path, "is_bn")
    (tmp_path / "is_bn.json").write_bytes(content)
    refused(tmp_path, r"is_bn\.json: .* while reading what a score records; run score@is_bn again")


@pytest.mark.parametrize("record", [{"params": {}}, {"params": {"n_labels": 9}}, {"steps": None}, {"inception": {}}])
def test_a_record_that_says_too_little_is_refused(tmp_path, record):
    made.write_scores(tmp_path, "is_bn", record=record)
    refused(tmp_path, r"is_bn\.json: .* while reading what a score records; run score@is_bn again")


def test_the_record_of_another_run_is_refused(tmp_path):
    made.write_scores(tmp_path, "is_bn", record={"run": "is_ours"})
    refused(tmp_path, r"is_bn\.json: is of run is_ours, expected is_bn")


def test_a_file_that_is_no_table_is_refused(tmp_path):
    made.write_scores(tmp_path, "is_bn")
    (tmp_path / "is_bn.parquet").write_bytes(b"PAR1 and no more")
    refused(tmp_path, r"is_bn\.parquet: not a whole parquet file \(.*again")


def change(folder, edit):
    path = folder / "is_bn.parquet"
    edit(pd.read_parquet(path)).to_parquet(path)


def with_value(value):
    def edit(frame):
        frame.loc[0, "value"] = value
        return frame

    return edit


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda f: f.drop(columns="split"), "found columns .*; expected also split"),
        (lambda f: f[f["quantity"] != "classifier_score"], "no classifier_score; expected one of every split and seed"),
        (with_value(float("nan")), "values that are not finite"),
        (with_value(float("inf")), "values that are not finite"),
        (with_value(0.9), "a score of 0.9; expected 1 or more"),
        (lambda f: pd.concat([f, f.iloc[:1]]), "a seed, quantity and split stand there twice"),
        (lambda f: f.iloc[1:], "seeds of different numbers of splits"),
        (lambda f: f.assign(n_images=f["n_images"].mask(f["seed"] == 1, 7)), r"scores of \[7, 50000\] images beside"),
        (lambda f: f[f["seed"] < 1], "scores of 1 seeds; expected 2"),
    ],
)
def test_values_that_cannot_be_are_refused(tmp_path, edit, said):
    made.write_scores(tmp_path, "is_bn", (3.0, 3.1))
    assert table(tmp_path)["-VBN+BN", "classifier_score"].n_seeds == 2
    change(tmp_path, edit)
    refused(tmp_path, rf"is_bn\.parquet: {said}")


def test_a_score_of_1_is_none_that_cannot_be(tmp_path):
    made.write_scores(tmp_path, "is_bn", (1.0,), split_sd=0.0)
    assert table(tmp_path)["-VBN+BN", "classifier_score"].measured == pytest.approx(1.0)


def test_rows_of_different_classifiers_are_refused(tmp_path):
    made.write_table3(tmp_path)
    made.write_scores(tmp_path, "is_nolabels", (3.0,) * 3, accuracy=79.0)
    refused(tmp_path, r"classifiers of different accuracy \(real 80.5, .*is_nolabels 79.0, .*expected one for all rows")


# ---- the paper's order ----------------------------------------------------------------------------------------------


def written(folder, tmp_path):
    csv = tmp_path / "table.csv"
    records.write_table(
        improved_table3(folder, report()), "T", csv=csv, md=tmp_path / "t.md", metrics=tmp_path / "m.json"
    )
    return orderings(pd.read_csv(csv).to_dict("records"))


def test_seeds_that_failed_are_told_in_the_note_and_at_the_orderings(tmp_path):
    """Samples of one picture and some noise: no score of them says anything of the technique."""
    made.write_scores(tmp_path / "r", "is_nolabels_ha", means=(1.02, 2.0, 1.04), split_sd=0.001)
    made.write_scores(tmp_path / "r", "is_nosmooth", means=(3.0, 3.1, 3.2))
    rows = {row.row: row.note for row in improved_table3(tmp_path / "r", report()) if row.column == "classifier_score"}
    assert "of seeds 0 and 2 the classifier takes all samples for alike (score below 1.05)" in rows["-L+HA"]
    assert "alike" not in rows["-LS"]
    line = next(line for line in written(tmp_path / "r", tmp_path) if line.startswith("- -L+HA"))
    assert "; seeds of -L+HA failed, as the notes say" in line


def test_all_orderings_of_the_paper_are_told(tmp_path):
    made.write_table3(tmp_path / "r")
    told = written(tmp_path / "r", tmp_path)
    assert told[0] == (
        "By `classifier_score`, of the paper's 5 orderings of neighbouring rows: 5 as in the paper, 0 the other way "
        "round, 0 not told apart."
    )
    pairs = [line.split(":")[0] for line in told if line.startswith("- ")]
    assert pairs == [
        "- Our methods 5.00, -VBN+BN 4.50", "- -VBN+BN 4.50, -L+HA 4.00", "- -L+HA 4.00, -LS 3.50",
        "- -LS 3.50, -L 3.00", "- -L 3.00, -MBF 2.50", "- Real data, 6.00",
    ]  # fmt: skip
    assert sum("the paper's own differ by 0.03, less than one of its ±" in line for line in told) == 1
    assert told[-1] == score_tables.RULE


def seeds_of(mean, sd):
    return (mean - sd, mean, mean + sd)  # of three seeds sd is the sample standard deviation


@pytest.mark.parametrize(
    ("upper", "lower", "verdict"),
    [
        # the standard error of two rows of three seeds is sd * sqrt(2 / 3)
        ((3.0, 0.1), (2.835, 0.1), "as in the paper"),  # twice 0.08165 is 0.1633
        ((3.0, 0.1), (2.839, 0.1), "not told apart"),
        ((2.835, 0.1), (3.0, 0.1), "the other way round"),
        ((2.839, 0.1), (3.0, 0.1), "not told apart"),
        ((3.0, 0.2), (2.83, 0.0), "not told apart"),
        ((3.0, 0.0), (3.0, 0.0), "not told apart"),
        ((3.1, 0.0), (3.0, 0.0), "as in the paper"),
    ],
)
def test_told_apart_by_twice_the_standard_error(tmp_path, upper, lower, verdict):
    made.write_scores(tmp_path / "r", "is_ours", seeds_of(*upper))
    made.write_scores(tmp_path / "r", "is_bn", seeds_of(*lower))
    told = written(tmp_path / "r", tmp_path)
    assert f"1 {verdict}" in told[0]
    assert "; 4 more were not measured." in told[0]
    (line,) = (line for line in told if line.startswith("- "))
    assert f": {verdict} (difference {upper[0] - lower[0]:+.3f}, standard error " in line


def test_one_seed_is_never_told_apart(tmp_path):
    """Its spread is over the splits, which says nothing of another training run."""
    made.write_scores(tmp_path / "r", "is_ours", (9.0,), split_sd=0.01)
    made.write_scores(tmp_path / "r", "is_bn", (2.0,), split_sd=0.01)
    told = written(tmp_path / "r", tmp_path)
    assert "- Our methods 9.00, -VBN+BN 2.00: not told apart (difference +7.000, one seed)" in told


def test_the_standard_error_is_pooled():
    one, other = Mean(mean=3.0, spread=0.3, n=2), Mean(mean=2.0, spread=0.6, n=5)
    variance = (1 * 0.09 + 4 * 0.36) / 5
    assert standard_error(one, other) == pytest.approx(math.sqrt(variance / 2 + variance / 5))
    assert standard_error(one, Mean(mean=2.0, spread=None, n=1)) is None


def test_samples_above_real_data_are_named(tmp_path):
    made.write_table3(tmp_path / "r")
    made.write_scores(tmp_path / "r", "is_bn", (7.0, 7.1, 7.2))
    made.write_scores(tmp_path / "r", "is_nolabels", (6.5, 6.6, 6.7))
    told = written(tmp_path / "r", tmp_path)
    assert "- Real data, 6.00: not above -VBN+BN and -L" in told
    assert "2 the other way round" in told[0]


def test_inception_scores_are_told_before_and_apart(tmp_path):
    for name, mean in (("is_ours", 8.0), ("is_bn", 7.0)):
        values = seeds_of(mean, 0.1)
        made.write_scores(tmp_path / "r", name, values[::-1], inception=GATE, inception_means=values)
    told = written(tmp_path / "r", tmp_path)
    assert [line.split(",")[0] for line in told if line.startswith("By ")] == [
        "By `inception_score`", "By `classifier_score`",
    ]  # fmt: skip
    assert told.count(score_tables.RULE) == 1


def test_nothing_measured_nothing_told(tmp_path):
    assert written(tmp_path / "missing", tmp_path) == []
    made.write_scores(tmp_path / "r", "is_ours", (3.0,) * 3)
    made.write_scores(tmp_path / "r", "is_nolabels", (3.0,) * 3)
    assert written(tmp_path / "r", tmp_path) == [], "they are no neighbours"
