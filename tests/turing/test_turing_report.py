"""The report of the visual Turing test: shares by slow counting, the paper beside, other decks apart."""

import csv
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from made_decks import made_deck, nine

from pipeline.core.errors import InputError
from pipeline.evaluation.intervals import wilson
from pipeline.reporting.drawing import save
from pipeline.reporting.rows import Report
from pipeline.turing import learning, report
from pipeline.turing.deck import deck_sha256
from pipeline.turing.published import AUTHORS, PUBLISHED
from pipeline.turing.votes import VoteLog, read_votes
from stages import turing_report

DECKS = {
    "mnist": made_deck(),
    "cifar10": made_deck(name="cifar10", seed=1, title="Photos", model="is_ours"),
    "faces": made_deck(name="faces", seed=2, title="Heads", model="dcgan_faces"),
}
READING = Report(comparable="no", notes={"mb_mnist": "small nets"}, datasets={"mnist": "digits", "cifar10": "patches"})
MNIST = "MNIST, minibatch discrimination"


@pytest.fixture
def cast(tmp_path):
    """Two annotators without feedback, one with it; a deck that is gone; nobody judged the heads."""
    path, gone = tmp_path / "votes.jsonl", made_deck(name="mnist", seed=77)
    with VoteLog(path) as log:
        log.add(nine(DECKS["mnist"], annotator="a1", wrong=(0, 1, 2), seconds=10.0))
        log.add(nine(DECKS["mnist"], annotator="a1", number=1, wrong=(4,), seconds=4.0))
        log.add(nine(DECKS["mnist"], annotator="a2", wrong=(5,), seconds=7.0))
        for number in range(12):
            wrong = (0, 3, 5) if number < 5 else ()
            log.add(nine(DECKS["mnist"], annotator="a1", mode="feedback", number=number, wrong=wrong))
        log.add(nine(DECKS["cifar10"], annotator="A1", mode="feedback", wrong=(1,)))
        log.add(nine(gone, annotator="a1", wrong=range(9)))
    return read_votes(path)


def cells(rows):
    return {(row.row, row.column): row for row in rows}


def test_shares_are_those_of_a_slow_count(cast):
    found = cells(report.table(DECKS, cast, READING))
    mine = [v for v in cast.to_dict("records") if v["deck"] == DECKS["mnist"].sha256 and v["mode"] == "plain"]
    right = sum(v["truth"] == v["answer"] for v in mine)
    assert (right, len(mine)) == (22, 27)
    low, high = wilson(22, 27)
    generated = [v["answer"] for v in mine if v["truth"]]
    real = [v["answer"] for v in mine if not v["truth"]]
    expected = {
        "percent_correct": 100 * 22 / 27,
        "percent_correct_low": 100 * low,
        "percent_correct_high": 100 * high,
        "percent_error_generated": 100 * (1 - sum(generated) / len(generated)),
        "percent_error_real": 100 * sum(real) / len(real),
        "median_seconds_a_screen": 7.0,
        "votes": 27,
        "annotators": 2,
        "feedback_votes": 108,
        "feedback_percent_correct": 100 * (108 - 15) / 108,
    }
    for column, value in expected.items():
        assert found[MNIST, column].measured == pytest.approx(value), column
    headline = found[MNIST, "percent_correct"]
    assert (headline.kind, headline.paper, headline.dataset, headline.comparable) == ("ours", 52.4, "digits", "no")
    assert headline.spread == pytest.approx(100 * np.std([14 / 18, 8 / 9], ddof=1))
    assert headline.spread_over == "annotators"
    assert headline.n_images == len({v["image"] for v in mine})
    assert "27 votes by 2 annotators, 95 % interval of those correct 63.3 to 91.8 %" in headline.note
    assert "small nets" in headline.note


def test_each_annotator_has_rows(cast):
    found = cells(report.table(DECKS, cast, READING))
    assert found[f"{MNIST}, annotator a1", "percent_correct"].measured == pytest.approx(100 * 14 / 18)
    assert found[f"{MNIST}, annotator a2", "percent_correct"].measured == pytest.approx(100 * 8 / 9)
    assert found[f"{MNIST}, annotator a1", "feedback_votes"].measured == 108
    assert (f"{MNIST}, annotator a2", "feedback_votes") not in found
    assert found[f"{MNIST}, annotator a2", "percent_correct"].spread is None


def test_every_printed_number_stands_before_our_own(cast):
    rows = report.table(DECKS, cast, READING)
    kinds = [row.kind for row in rows]
    assert kinds[:5] == ["ours", "ours", "ours", "ours", "published"]
    assert set(kinds[5:]) == {"extra"}
    printed = [place for places in PUBLISHED.values() for place in places]
    assert [(row.row, row.column, row.paper) for row in rows[:5]] == [
        (place.row, place.column, place.value) for place in [*printed, AUTHORS]
    ]
    assert [row.paper for row in rows[:5]] == [52.4, 78.7, 21.3, 71.4, 95.0]
    assert rows[4].measured is None
    assert len(cells(rows)) == len(rows)  # no cell twice


def test_what_nobody_judged_has_a_note(cast):
    found = cells(report.table(DECKS, cast, READING))
    assert found["CIFAR-10, best model", "percent_correct"].measured is None
    assert "nobody has voted without feedback" in found["CIFAR-10, best model", "percent_error"].note
    assert found["CIFAR-10, best model", "feedback_percent_correct"].measured == pytest.approx(100 * 8 / 9)
    assert "no such deck" in found["CIFAR-10, top 1 % of samples by Inception score", "percent_correct"].note
    assert found["Heads (faces)", "percent_correct"].note == "nobody has voted"


def test_votes_on_other_decks_are_named_and_not_mixed_in(cast):
    found = cells(report.table(DECKS, cast, READING))["Votes on other decks", "votes"]
    gone = made_deck(name="mnist", seed=77)
    assert found.measured == 9
    assert f"9 on mnist {gone.sha256[:12]}" in found.note
    assert f"mnist {DECKS['mnist'].sha256[:12]}" in found.note
    none = report.table(DECKS, cast[cast["deck"] != gone.sha256], READING)
    assert ("Votes on other decks", "votes") not in cells(none)
    assert cells(report.table({}, cast, READING))["Votes on other decks", "votes"].note.endswith("the decks now: none")


def test_error_is_what_is_not_correct(tmp_path):
    with VoteLog(tmp_path / "votes.jsonl") as log:
        log.add(nine(DECKS["cifar10"], wrong=(1, 2)))
    found = cells(report.table(DECKS, read_votes(tmp_path / "votes.jsonl"), READING))
    assert found["CIFAR-10, best model", "percent_correct"].measured == pytest.approx(700 / 9)
    assert found["CIFAR-10, best model", "percent_error"].measured == pytest.approx(200 / 9)
    assert found["CIFAR-10, best model", "percent_error"].spread is None  # of one annotator


def test_annotators_whose_names_would_be_one_key(tmp_path):
    with VoteLog(tmp_path / "votes.jsonl") as log:
        for name in ("a_1", "A-1", "b"):
            log.add(nine(DECKS["mnist"], annotator=name))
    rows = report.table(DECKS, read_votes(tmp_path / "votes.jsonl"), READING)
    names = {row.row for row in rows if "annotator " in row.row}
    assert names == {f"{MNIST}, annotator {name}" for name in ("A-1", "a_1 (twin 2)", "b")}


@pytest.mark.parametrize(("column", "value"), [("image", 24), ("truth", None)])
def test_votes_that_contradict_their_deck(cast, tmp_path, column, value):
    report.check_truth(tmp_path / "votes.jsonl", DECKS, cast)
    mine = cast[cast["deck"] == DECKS["mnist"].sha256]
    row = int(mine.index[mine["truth"] == DECKS["mnist"].generated[0]][-1])  # an image of no deck is not its first one
    cast.loc[row, column] = (not cast.loc[row, "truth"]) if value is None else value
    with pytest.raises(
        InputError, match=rf"votes.jsonl, line {row + 1}: image \d+ is called .* deck mnist of 24 images"
    ):
        report.check_truth(tmp_path / "votes.jsonl", DECKS, cast)


# ---- the learning curve ----


def test_bins_of_five_screens(cast):
    found = learning.curve(DECKS, cast)
    mine = found[(found["deck"] == "mnist") & (found["mode"] == "feedback")]
    assert mine["first_screen"].tolist() == [1, 6, 11]
    assert mine["last_screen"].tolist() == [5, 10, 15]
    assert mine["n_votes"].tolist() == [45, 45, 18]
    assert mine["percent_correct"].tolist() == pytest.approx([100 * 30 / 45, 100, 100])
    assert mine["percent_correct_low"].iloc[0] == pytest.approx(100 * wilson(30, 45)[0])
    assert set(found["deck"]) == {"mnist", "cifar10"}  # of the heads nobody judged any


def test_the_mean_is_over_annotators_and_not_over_votes(cast):
    """a1 has 18 votes in the bin, a2 nine."""
    found = learning.curve(DECKS, cast)
    mine = found[(found["deck"] == "mnist") & (found["mode"] == "plain")].iloc[0]
    assert mine["percent_correct_mean"] == pytest.approx(100 * (14 / 18 + 8 / 9) / 2)
    assert mine["spread"] == pytest.approx(100 * np.std([14 / 18, 8 / 9], ddof=1))
    assert mine["percent_correct"] == pytest.approx(100 * 22 / 27)
    assert mine["n_annotators"] == 2


def test_the_figure_shows_chance_and_the_paper(cast):
    figure = learning.draw(DECKS, learning.curve(DECKS, cast))
    assert [axis.get_title() for axis in figure.axes] == ["Digits", "Photos", "Heads"]
    labels = [{text.get_text() for text in axis.get_legend().get_texts()} for axis in figure.axes]
    assert labels[0] == {"chance", "paper, 52.4 %", "mistakes shown, 108 votes", "no feedback, 27 votes"}
    assert labels[1] == {"chance", "paper, 78.7 %", "mistakes shown, 9 votes"}
    assert labels[2] == {"chance"}
    assert [text.get_text() for text in figure.axes[2].texts] == [learning.NOBODY]


def test_without_decks_the_figure_says_so(cast, tmp_path):
    figure = learning.draw({}, learning.curve({}, cast))
    (axis,) = figure.axes
    assert [text.get_text() for text in axis.texts] == [learning.NO_DECKS]
    save(figure, tmp_path / "a.png")  # a canvas of no width would make Matplotlib divide by 0


# ---- the stage ----

PARAMS = """report:
  comparable: no
  notes: {mb_mnist: small nets}
  datasets: {mnist: digits, cifar10: patches}
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Params, a deck on the disk, no vote."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(PARAMS)
    deck, folder = DECKS["mnist"], tmp_path / "turing_deck" / "mnist"
    folder.mkdir(parents=True)
    np.save(folder / "images.npy", deck.images)
    rows = np.arange(len(deck.images))
    pd.DataFrame({"row": rows, "generated": deck.generated, "key": rows.astype(str)}).to_parquet(
        folder / "truth.parquet"
    )
    about = {"name": "mnist", "title": "Digits", "model": "mb_mnist", "dataset": "mnist", "n_images": len(rows)}
    about |= {"sha256": deck_sha256(deck.images, deck.generated), "paper": None}
    (folder / "deck.json").write_text(json.dumps(about))
    (tmp_path / "votes.jsonl").touch()
    return tmp_path


def run_stage(project):
    names = ("turing_deck", "votes.jsonl", "turing.csv", "turing.md", "turing.json", "turing.png", "learning.csv")
    turing_report.main(project / "params.yaml", *(project / name for name in names))
    return {name: (project / name).read_bytes() for name in names[2:]}


def test_nobody_has_voted(project):
    outs = run_stage(project)
    assert json.loads(outs["turing.json"]) == {}
    with (project / "turing.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["row"] == MNIST
    assert [row["measured"] for row in rows] == [""] * len(rows)
    assert rows[0]["note"] == "nobody has voted; small nets"
    assert outs["learning.csv"].decode().splitlines() == [",".join(learning.COLUMNS)]
    assert outs["turing.png"].startswith(b"\x89PNG")


def test_with_votes_and_the_same_bytes_again(project):
    with VoteLog(project / "votes.jsonl") as log:
        log.add(nine(DECKS["mnist"], wrong=(0,)))
        log.add(nine(DECKS["mnist"], mode="feedback"))
    outs = run_stage(project)
    metrics = json.loads(outs["turing.json"])
    assert metrics["mnist_minibatch_discrimination"]["percent_correct"] == pytest.approx(88.8889)
    assert metrics["mnist_minibatch_discrimination"]["feedback_percent_correct"] == 100
    assert len(outs["learning.csv"].decode().splitlines()) == 3
    assert len(outs["turing.png"]) < 500_000
    assert run_stage(project) == outs


def test_simulated_votes_are_refused(project):
    with VoteLog(project / "votes.jsonl", simulated=True) as log:
        log.add([replace(vote, simulated=True) for vote in nine(DECKS["mnist"])])
    with pytest.raises(InputError, match="simulated votes do not belong among people's"):
        run_stage(project)


def test_votes_after_feedback_are_counted_in_the_note(tmp_path):
    with VoteLog(tmp_path / "votes.jsonl") as log:
        log.add(nine(DECKS["mnist"], annotator="a1"))
        log.add(nine(DECKS["mnist"], annotator="a1", mode="feedback"))
        log.add(nine(DECKS["mnist"], annotator="a2"))
        before = cells(report.table(DECKS, read_votes(tmp_path / "votes.jsonl"), READING))[MNIST, "percent_correct"]
        log.add(nine(DECKS["mnist"], annotator="a1", number=1))
    after = cells(report.table(DECKS, read_votes(tmp_path / "votes.jsonl"), READING))[MNIST, "percent_correct"]
    assert "shown mistakes before" not in before.note
    assert "9 of them by annotators who had been shown mistakes before" in after.note


def test_mistakes_shown_on_another_deck_count(tmp_path):
    with VoteLog(tmp_path / "votes.jsonl") as log:
        log.add(nine(DECKS["cifar10"], annotator="a1", mode="feedback"))
        log.add(nine(DECKS["mnist"], annotator="a1"))
    found = cells(report.table(DECKS, read_votes(tmp_path / "votes.jsonl"), READING))
    assert "9 of them by annotators who had been shown mistakes before" in found[MNIST, "percent_correct"].note


def test_votes_are_never_quite_the_papers(tmp_path):
    """Its page and its annotators are not described; without votes the profile's word stands."""
    paper = replace(READING, comparable="yes")
    with VoteLog(tmp_path / "votes.jsonl") as log:
        log.add(nine(DECKS["mnist"], annotator="a1"))
    rows = report.table(DECKS, read_votes(tmp_path / "votes.jsonl"), paper)
    assert {row.comparable for row in rows if row.measured is not None and row.dataset} == {"reduced"}
    assert {row.comparable for row in rows if row.measured is None and row.kind == "ours"} == {"yes"}
