"""The file of claims: what it says, and what is refused with file and key."""

import json

import pytest
from dvc.utils.hydra import apply_overrides
from made_claims import BOOK, written

from pipeline.claims import book as books
from pipeline.claims.book import load
from pipeline.core import params
from pipeline.core.errors import InputError
from pipeline.training import adversarial, semisupervised


def test_an_arm_has_what_the_arm_has_that_it_is_like(tmp_path):
    book = load(written(tmp_path))
    assert book.experiments["strong"].overrides == ("train.epochs=2", "train.rate=0.9")
    assert book.experiments["strong"].targets == ("train@a",)
    assert book.ablation(book.claims["rate"]) == ("train.rate=0.9",)
    assert book.targets(book.claims["rate"]) == ("train@a",)


def test_a_later_override_of_the_same_key_holds(tmp_path):
    text = BOOK.replace("['train.rate=0.9']", "['train.epochs=9', 'train.rate=0.9']")
    book = load(written(tmp_path, text))
    assert book.experiments["strong"].overrides == ("train.epochs=9", "train.rate=0.9")
    assert book.ablation(book.claims["rate"]) == ("train.epochs=9", "train.rate=0.9")


def test_what_only_the_base_has_is_said_too(tmp_path):
    text = BOOK.replace("base: {arm: short", "base: {arm: turned").replace(
        "ablated: {arm: strong", "ablated: {arm: short"
    )
    text = text.replace("base: {arm: turned", "base: {arm: strong")
    book = load(written(tmp_path, text))
    assert book.ablation(book.claims["rate"]) == ("base: train.rate=0.9",)


def test_committed_results_need_no_arm(tmp_path):
    book = load(written(tmp_path))
    assert book.arms_of(["runs"]) == []
    assert book.arms_of(["runs", "rate"]) == ["short", "strong"]
    assert book.ablation(book.claims["runs"]) == ()
    assert book.targets(book.claims["runs"]) == ()


def test_an_arm_that_two_claims_share_is_run_once(tmp_path):
    second = BOOK[BOOK.index("    rate:") : BOOK.index("    runs:")].replace("rate:", "again:", 1)
    book = load(written(tmp_path, BOOK.replace("    runs:", second + "    runs:")))
    assert book.arms_of(["rate", "again"]) == ["short", "strong"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("claimed: lower", "claimed: worse", "claims.rate.claimed: value should be 'higher' or 'lower', found 'worse'"),
        ("      least: 0.1\n", "", "claims.rate: missing key 'least'; expected ablated, base, claimed"),
        ("      unit: share\n", "      unit: share\n      colour: red\n", "claims.rate: unknown key 'colour'"),
        ("least: 0.1", "least: -1", "claims.rate.least: value should be greater than or equal to 0, found -1"),
        ("least: 0.1", "least: '0.1'", "claims.rate.least: value should be a valid number, found '0.1'"),
        ("confidence: 0.95", "confidence: 95", "rules.seeds.confidence: value should be less than 1, found 95"),
        ("name: intervals", "name: feeling", "rules.intervals.name: expected 'intervals', 'mean', found 'feeling'"),
        ("rule: seeds", "rule: luck", "claims.rate.rule: no rule 'luck'; expected seeds, intervals"),
        ("metric: final_diversity", "metric: beauty", "claims.rate.metric: no metric 'beauty'; expected loss_osc"),
        ("of: {run: a}", "of: {}", "claims.rate.base: metric final_diversity: missing parameter run in of"),
        ("of: {run: a}", "of: {run: a, k: 1}", "metric final_diversity: unknown parameter k in of; expected run"),
        ("of: {run: a}", "of: {run: 3}", "metric final_diversity, run: expected str, found 3"),
        (
            "base: {arm: short, of: {}}",
            "base: {arm: short, of: {run: b}}",
            "claims.rate.base.of: run is in the claim's",
        ),
        (
            "base: {arm: short",
            "base: {arm: long",
            "claims.rate.base.arm: no arm 'long'; expected committed, short, strong",
        ),
        ("ablated: {arm: strong", "ablated: {arm: short", "claims.rate: base and ablated are the same"),
        ("like: short", "like: gone", "arms.strong.like: no arm 'gone'; expected short, strong"),
        ("like: null", "like: strong", "are like each other in a ring"),
        ("'train.rate=0.9'", "train.rate", "arms.strong.overrides: found 'train.rate'; expected key=value"),
        ("['train.epochs=2']", "[]", "arms.short.overrides: found none"),
        ("targets: [train@a]", "targets: []", "arms.short.targets: found none"),
        ("['train.rate=0.9']", "[]", "arms.strong: the same overrides and targets as arm 'short'"),
        ("    strong:", "    committed:", "'committed' is the arm without overrides"),
        ("    rate:", "    Rate:", "claims: found the name 'Rate'; expected small letters"),
        ("    people:", "    rate:", "not_tested.rate: a claim has this name, too"),
        ("ablated: {arm: strong", "ablated: {arm: committed", "arms.strong: no claim uses it"),
        ("ablations:\n", "claims:\n", "ablations.yaml, ablations: no key 'ablations'"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, old, new, said):
    assert old in BOOK
    with pytest.raises(InputError, match=r"ablations\.yaml") as error:
        load(written(tmp_path, BOOK.replace(old, new, 1)))
    assert said in str(error.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match="no such"):
        load(tmp_path / "ablations.yaml")


# ---- the project's own file ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def book(root):
    return load(root / books.BOOK)


def small_params(values, stage, run, path):
    """Of params.yaml only what this stage reads: the whole takes a second to write."""
    section = {key: value for key, value in values[stage].items() if key != "runs"}
    path.write_text(json.dumps({stage: section | {"runs": {run: values[stage]["runs"][run]}}}))
    return path


def test_every_override_is_accepted_by_the_params_that_it_changes(root, book, tmp_path):
    """As DVC applies it; then the section of each target loads, and differs from what it was."""
    kinds = {"train": adversarial.Run, "semisup": semisupervised.Run}
    values = params.read(root / "params.yaml")
    for arm, experiment in book.experiments.items():
        for target in experiment.targets:
            stage, _, run = target.partition("@")  # a target that is no stage fails here: stages are the params' runs
            changed = small_params(values, stage, run, tmp_path / f"{arm}.yaml")
            own = {"shared": stage, "own": f"{stage}.runs.{run}"}
            before = params.load(changed, kinds[stage], **own)
            apply_overrides(changed, list(experiment.overrides))
            after = params.load(changed, kinds[stage], **own)
            assert after != before, arm
            assert len(after.seeds) >= 3, f"{arm}: one training says nothing about chance"


def test_epochs_and_images_that_metrics_name_are_those_of_the_params(root, book):
    """A metric of the last epoch must not quietly look at an earlier one when a schedule gets longer."""
    for name, claim in book.claims.items():
        if claim.metric == "validation_error":
            run = params.load(
                root / "params.yaml", adversarial.Run, shared="train", own=f"train.runs.{claim.of['run']}"
            )
            assert claim.of["until_epoch"] == run.epochs, name


def test_sides_differ_in_one_thing(book):
    """Either the arms or the metric's parameters; and an arm differs from its base in what is ablated alone."""
    for name, claim in book.claims.items():
        assert (claim.base.arm != claim.ablated.arm) != (claim.base.of != claim.ablated.of), name
        assert bool(book.ablation(claim)) == (claim.base.arm != claim.ablated.arm), name
