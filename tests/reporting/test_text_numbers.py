"""Numbers of the papers' running text: every printed one, beside what made-up results say, and nothing invented."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline.core.errors import InputError
from pipeline.core.records import metrics_of
from pipeline.reporting import running_text, tables
from pipeline.reporting.rows import NOT_RUN, Report
from pipeline.reporting.running_text import NO_NAMES, Settings, gather, read_settings
from pipeline.reporting.text_numbers import NUMBERS, PUBLISHED, text_numbers

ROOT = Path(__file__).resolve().parents[2]
PRINTED = [  # DCGAN, then Improved GAN
    ("LSUN bedrooms", "out_train", 3_000_000),
    ("LSUN bedrooms, deduplicated", "duplicates", 275_000),
    ("LSUN bedrooms, deduplicated", "false_positives", 1),
    ("Faces", "photos", 3_000_000),
    ("Faces", "out", 350_000),
    ("Faces", "people", 10_000),
    ("Bedrooms, Figure 2", "epoch", 1),
    ("Bedrooms, Figure 3", "epoch", 5),
    ("DCGAN (ours) + L2-SVM", "features", 28_672),
    ("SVHN", "out_validation", 10_000),
    ("Supervised CNN with the same architecture", "trials", 64),
    ("Walk through z", "points", 9),
    ("Guided backpropagation", "features_shown", 6),
    ("Windows", "samples", 150),
    ("Windows", "boxes", 52),
    ("Windows", "maps_dropped", 200),
    ("Arithmetic on z", "noise", 0.25),
    ("MNIST", "out_validation", 10_000),
    ("CIFAR-10, Inception score", "images", 50_000),
    ("MNIST, few labels", "labelled_subsets", 10),
    ("CIFAR-10, few labels", "labelled_subsets", 10),
    ("MNIST, minibatch discrimination", "percent_correct", 52.4),
    ("MNIST, minibatch discrimination", "votes", 2_000),
    ("CIFAR-10, best model", "percent_correct", 78.7),
    ("CIFAR-10, best model", "percent_error", 21.3),
    ("CIFAR-10, best model, judged by the authors", "percent_correct", 95),
    ("CIFAR-10, top 1 % of samples by Inception score", "percent_correct", 71.4),
    ("ImageNet 128 x 128", "labels", 1_000),
]
SETTINGS = Settings(n_labelled=40, n_points=11, noise=0.5)
AUTHORS = ("CIFAR-10, best model, judged by the authors", "percent_correct")
MADE = {  # what the made-up results below say
    ("LSUN bedrooms", "out_train"): 900,
    ("LSUN bedrooms, deduplicated", "duplicates"): 45,
    ("LSUN bedrooms, deduplicated", "false_positives"): 2.5,
    ("Faces", "photos"): 400,
    ("Faces", "out"): 300,
    ("Bedrooms, Figure 2", "epoch"): 2,
    ("Bedrooms, Figure 3", "epoch"): 7,
    ("DCGAN (ours) + L2-SVM", "features"): 3584,
    ("SVHN", "out_validation"): 70,
    ("Supervised CNN with the same architecture", "trials"): 8,
    ("Walk through z", "points"): 11,
    ("Guided backpropagation", "features_shown"): 4,
    ("Windows", "samples"): 40,
    ("Windows", "boxes"): 13,
    ("Windows", "maps_dropped"): 16,
    ("Arithmetic on z", "noise"): 0.5,
    ("MNIST", "out_validation"): 80,
    ("CIFAR-10, Inception score", "images"): 5000,
    ("MNIST, few labels", "labelled_subsets"): 3,
    ("CIFAR-10, few labels", "labelled_subsets"): 2,
    ("MNIST, minibatch discrimination", "percent_correct"): 61.5,
    ("MNIST, minibatch discrimination", "votes"): 540,
    ("CIFAR-10, best model", "percent_correct"): 70.25,
    ("CIFAR-10, best model", "percent_error"): 29.75,
    ("ImageNet 128 x 128", "labels"): 12,
    ("LSUN bedrooms, deduplicated", "duplicates_percent"): 5.0,
    ("Faces", "faces_per_photo"): 0.75,
    ("DCGAN trained on CIFAR-10 + L2-SVM", "features"): 1792,
    ("Windows", "maps_dropped_percent"): 25.0,
    ("Windows", "maps_dropped_16x16"): 10,
}
FIG6 = {
    "n_shown": 10,
    "layer_8x8": {"n_maps": 64, "classifier_random": {"n_boxes": 13, "n_positive_weights": 16}},
    "layer_16x16": {"n_maps": 32, "classifier_random": {"n_boxes": 13, "n_positive_weights": 10}},
}
FIGURES = {
    "dcgan_fig2": {"epoch": 2, "n_images": 50},
    "dcgan_fig3": {"epoch": 7, "n_images": 50},
    "dcgan_fig4": {"n_frames": 100},
    "dcgan_fig5": {"n_features": 128, "n_shown": 4},
    "dcgan_fig6": FIG6,
    "dcgan_fig7": {"n_shown": 2},
    "improved_table3_scores": {
        "real": {"n_images": 400},
        "is_ours": {"n_images": 6000},
        "is_bn": {"n_images": 5000},
    },
    "semisup_errors": {
        "mnist": {
            "mnist_20": {"n_labels": 20, "n_splits": 5},
            "mnist_100": {"n_labels": 100, "n_splits": 3},
            "mb_mnist": {"n_labels": 400, "n_splits": 1},
        },
        "cifar10": {"cifar10_1000": {"n_labels": 1000, "n_splits": 2}, "is_ours": {"n_labels": 9, "n_splits": 1}},
    },
    "table2_probes": {"supervised_cnn": {"n_trials": 8}},
}
VOTES = [  # row, column, measured, spread, n_images, note
    ("MNIST, minibatch discrimination", "percent_correct", 61.5, 4.25, 180, "540 votes by 3 annotators"),
    ("MNIST, minibatch discrimination", "votes", 540, None, 180, None),
    ("CIFAR-10, best model", "percent_correct", 70.25, None, 90, "400 votes by 1 annotator"),
    ("CIFAR-10, best model", "percent_error", 29.75, None, 90, "400 votes by 1 annotator"),
    ("CIFAR-10, top 1 % of samples by Inception score", "percent_correct", None, None, None, "nobody has voted"),
]


def report(comparable: Any = "no", **notes):
    names = ("mnist", "cifar10", "svhn", "lsun", "lsun_dedup", "imagenet32", "imagenet128", "faces", "neardup")
    return Report(comparable=comparable, notes=notes, datasets={name: f"our {name}" for name in names})


def write_counts(folder, **sets):
    folder.mkdir(parents=True, exist_ok=True)
    for name, counts in sets.items():
        quantities = pd.DataFrame({"quantity": list(counts), "value": list(map(float, counts.values()))})
        quantities.to_parquet(folder / f"{name}.parquet")


def write_figures(folder, figures):
    folder.mkdir(parents=True, exist_ok=True)
    for name, metrics in figures.items():
        (folder / f"{name}.json").write_text(json.dumps(metrics))


def write_votes(path, votes=VOTES):
    frame = pd.DataFrame(votes, columns=["row", "column", "measured", "spread", "n_images", "note"])
    frame["spread_over"] = frame["spread"].map(lambda spread: "annotators" if pd.notna(spread) else "")
    frame.to_csv(path, index=False)
    return path


def write_features(folder, **lengths):
    folder.mkdir(parents=True, exist_ok=True)
    for name, n_features in lengths.items():
        pd.DataFrame({"purpose": ["choose", "test"], "n_features": [n_features] * 2}).to_parquet(
            folder / f"{name}.parquet"
        )


@pytest.fixture
def profile(tmp_path):
    """A profile in which everything has run: results folder and the table of votes."""
    results = tmp_path / "results"
    write_counts(
        results / "datasets",
        lsun={"in": 1000, "out": 1000, "out_train": 900},
        lsun_dedup={"in": 1000, "out": 955, "duplicates": 45},
        dedup={"n_in": 900, "n_removed": 45, "false_positive_percent": 2.5},
        faces={"in": 350, "out": 300, "photos": 400},
        svhn={"in": 700, "out": 700, "out_validation": 70},
        mnist={"in": 800, "out": 800, "out_validation": 80},
        imagenet128={"in": 600, "out": 600, "labels": 12},
    )
    write_features(results / "dcgan_table1", cifar10=3584, cifar10_dcgan_cifar10=1792)
    write_figures(results / "figures", FIGURES)
    return results, write_votes(tmp_path / "turing.csv")


@pytest.fixture
def nothing(tmp_path):
    """A profile in which nothing has run and nobody has voted."""
    votes = [(row, column, None, None, None, "no such deck in this profile") for row, column, *_ in VOTES]
    return tmp_path / "results", write_votes(tmp_path / "turing.csv", [vote for vote in votes if vote[1] != "votes"])


def table(profile, reading=None):
    results, votes = profile
    folder = results / "text_numbers"
    folder.mkdir(parents=True, exist_ok=True)
    gather(results, votes, SETTINGS).to_parquet(folder / NUMBERS)
    return text_numbers(folder, reading or report())


def cells(profile, reading=None):
    return {(row.row, row.column): row for row in table(profile, reading)}


def test_every_printed_number_in_order(profile):
    rows = table(profile)
    assert [(row.row, row.column, row.paper) for row in rows[: len(PRINTED)]] == PRINTED
    assert {row.kind for row in rows[len(PRINTED) :]} == {"extra"}
    assert tables.TABLES["text_numbers"][1] is text_numbers


def test_every_number_is_that_of_the_results(profile):
    found = {place: row.measured for place, row in cells(profile).items() if row.measured is not None}
    assert found == pytest.approx(MADE)


def test_nothing_is_measured_where_nothing_ran(nothing):
    rows = table(nothing)
    assert [(row.row, row.column) for row in rows] == [place[:2] for place in PRINTED]
    assert all(row.measured is None and row.n_images is None and row.note for row in rows)
    assert metrics_of(rows) == {}
    assert {row.note for row in rows if row.row == "Windows"} == {NOT_RUN}
    votes = [row.note for row in rows if row.row.startswith("MNIST, minibatch")]
    assert votes == ["no such deck in this profile"] * 2, "the number of votes is missing for the same reason"


def test_people_are_not_counted(profile):
    assert cells(profile)["Faces", "people"].note == NO_NAMES


def test_what_the_authors_did_is_only_quoted(profile):
    row = cells(profile)[AUTHORS]
    assert (row.kind, row.measured) == ("published", None)
    assert row.note == "above 95 %; quoted by the paper, not measured here"


def test_votes_keep_their_spread_and_note(profile):
    row = cells(profile)["MNIST, minibatch discrimination", "percent_correct"]
    assert (row.spread, row.spread_over, row.n_images) == (4.25, "annotators", 180)
    assert (row.note, row.dataset) == ("540 votes by 3 annotators", "our mnist")
    assert cells(profile)["CIFAR-10, best model", "percent_correct"].spread is None
    top = cells(profile)["CIFAR-10, top 1 % of samples by Inception score", "percent_correct"]
    assert (top.measured, top.note) == (None, "nobody has voted")


def test_numbers_that_table_datasets_has_too_are_the_same(profile):
    results, _ = profile
    theirs = {(row.row, row.column): row for row in tables.datasets(results / "datasets", report())}
    ours = cells(profile)
    shared = [place for place in ours if place in theirs]
    assert len(shared) == 8  # the five printed ones, two validation sets, the classes
    for place in shared:
        assert (ours[place].measured, ours[place].dataset) == (theirs[place].measured, theirs[place].dataset), place


def test_without_truth_nobody_knows_the_false_positives(profile):
    results, _ = profile
    write_counts(results / "datasets", dedup={"n_in": 900, "n_removed": 45})
    row = cells(profile)["LSUN bedrooms, deduplicated", "false_positives"]
    assert (row.measured, row.note) == (None, running_text.NO_TRUTH)


def test_share_of_duplicates_is_told_beside_the_papers(profile):
    row = cells(profile)["LSUN bedrooms, deduplicated", "duplicates_percent"]
    assert (row.measured, row.n_images) == (5.0, 900)
    assert row.note == "the paper's counts come to 9.2 %"


@pytest.mark.parametrize("figure", ["dcgan_fig6", "dcgan_fig7"])
def test_nothing_marked_is_not_counted(profile, figure):
    """A deck that nobody looked through has no number of samples, though the params name one."""
    results, _ = profile
    write_figures(results / "figures", {figure: {"n_shown": 0}})
    rows = [
        row for row in table(profile) if row.row == {"dcgan_fig6": "Windows", "dcgan_fig7": "Arithmetic on z"}[figure]
    ]
    assert len(rows) == (3 if figure == "dcgan_fig6" else 1)
    assert all(row.measured is None and "docs/annotating.md" in row.note for row in rows)


def test_windows_drawn_by_a_person_need_no_detector(profile):
    """Without one nothing is judged, so the number of maps is not known, nor the share of them."""
    results, _ = profile
    drawn = {"n_shown": 10, "layer_8x8": {"classifier_random": {"n_boxes": 52, "n_positive_weights": 200}}}
    write_figures(results / "figures", {"dcgan_fig6": drawn})
    found = {row.column: row for row in table(profile) if row.row == "Windows"}
    assert list(found) == ["samples", "boxes", "maps_dropped"]
    assert (found["boxes"].measured, found["maps_dropped"].measured) == (52, 200)
    assert found["maps_dropped"].note == "of 8 x 8: those of positive weight"


def test_released_networks_have_no_epochs(profile):
    results, _ = profile
    write_figures(results / "figures", {"dcgan_fig2": {"n_epochs": 0}})
    row = cells(profile)["Bedrooms, Figure 2", "epoch"]
    assert row.measured is None
    assert "released" in row.note


def test_features_of_the_papers_network_may_be_missing(profile):
    results, _ = profile
    (results / "dcgan_table1" / "cifar10.parquet").unlink()
    found = cells(profile, report(dcgan_cifar10="48 filters"))
    assert found["DCGAN (ours) + L2-SVM", "features"].note == NOT_RUN
    assert found["DCGAN trained on CIFAR-10 + L2-SVM", "features"].note == "D of run dcgan_cifar10; 48 filters"


def test_a_paper_row_is_reduced_if_the_set_stands_in_or_the_size_is_another(profile):
    found = cells(profile, report("yes", faces="CelebA stands in", dcgan_lsun=""))
    assert found["LSUN bedrooms, deduplicated", "duplicates"].comparable == "yes", "an outcome, not a size"
    assert found["Faces", "out"].comparable == "reduced"
    assert found["Walk through z", "points"].comparable == "reduced"
    assert found["MNIST, minibatch discrimination", "votes"].comparable == "reduced"
    assert found["Faces", "people"].comparable == "yes", "empty: nothing was reduced"


def test_a_size_as_printed_stays_comparable(profile):
    results, _ = profile
    write_figures(results / "figures", {"dcgan_fig5": {"n_shown": 6}, "dcgan_fig3": {"epoch": 5}})
    found = cells(profile, report("yes"))
    assert found["Guided backpropagation", "features_shown"].comparable == "yes"
    assert found["Bedrooms, Figure 3", "epoch"].comparable == "yes"


def test_rows_keep_the_profiles_word(profile):
    assert {row.comparable for row in table(profile, report("reduced")) if row.kind != "published"} == {"reduced"}


def test_metrics_have_no_dots_and_count_what_is_measured(profile):
    metrics = metrics_of(table(profile))
    assert metrics["windows"]["maps_dropped_16x16"] == 10
    assert sum(map(len, metrics.values())) == len(MADE)
    assert not any("." in key for key in [*metrics, *(key for row in metrics.values() for key in row)])


def test_no_place_twice_and_all_with_a_source():
    places = [(printed.row, printed.column) for printed in PUBLISHED]
    assert len(set(places)) == len(places)
    assert all(printed.source.startswith(("DCGAN, ", "Improved GAN, ")) for printed in PUBLISHED)


# ---- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "{", "[1]"])
def test_damaged_metrics_are_named(profile, text):
    results, _ = profile
    (results / "figures" / "dcgan_fig4.json").write_text(text)
    with pytest.raises(InputError, match=r"dcgan_fig4\.json: .*run figure@dcgan_fig4 again"):
        table(profile)


def test_counts_of_another_form_are_named(profile):
    results, _ = profile
    pd.DataFrame({"name": ["out"], "value": [1.0]}).to_parquet(results / "datasets" / "faces.parquet")
    with pytest.raises(InputError, match=r"faces\.parquet: found columns name, value; expected also quantity"):
        table(profile)


def test_missing_votes_are_named(profile):
    results, votes = profile
    votes.unlink()
    with pytest.raises(InputError, match=r"turing\.csv: missing; run dvc repro turing_report"):
        table((results, votes))


@pytest.mark.parametrize(("text", "says"), [("", "no CSV table"), ("row,column\na,b\n", "expected also measured")])
def test_damaged_votes_are_named(profile, text, says):
    results, votes = profile
    votes.write_text(text)
    with pytest.raises(InputError, match=rf"turing\.csv: .*{says}.*run dvc repro turing_report"):
        table((results, votes))


def test_numbers_that_were_not_gathered_are_named(tmp_path, profile):
    with pytest.raises(InputError, match="run dvc repro running_text"):
        text_numbers(tmp_path / "nowhere", report())
    results, votes = profile
    found = gather(results, votes, SETTINGS)
    found[found["row"] != "Walk through z"].to_parquet(tmp_path / NUMBERS)
    with pytest.raises(InputError, match="nothing about Walk through z, points; run dvc repro running_text"):
        text_numbers(tmp_path, report())


@pytest.mark.parametrize(
    "section",
    [
        "walk: {n_points: 11}",
        "walk: {n_points: 11}\n  forget_windows: {n_labelled: yes please}",
        "walk: {n_points: 11}\n  forget_windows: {n_labelled: true}",
        "walk: {n_points: 11}\n  forget_windows: {n_labelled: 0}",
        "walk: {n_points: 11}\n  forget_windows: 150",
    ],
)
def test_settings_must_be_positive_numbers(tmp_path, section):
    params_file = tmp_path / "params.yaml"
    params_file.write_text(f"internals:\n  {section}\n")
    with pytest.raises(InputError, match=r"internals\.forget_windows\.n_labelled: expected a positive number, found"):
        read_settings(params_file)


@pytest.mark.parametrize("params_file", ["params.yaml", "profiles/laptop/params.yaml", "profiles/paper/params.yaml"])
def test_settings_of_every_profile_are_read(params_file):
    found = read_settings(ROOT / params_file)
    assert (found.n_labelled, found.noise) == (150, 0.25)  # the paper's
    assert found.n_points == 11  # of the released picture; the paper says 9
