"""Planning with an executor that only pretends, and judging with results made in the test."""

import json
import subprocess
import threading
from concurrent.futures import CancelledError

import pandas as pd
import pytest
from made_claims import MadeOutputs, health, written

from pipeline.claims import experiments, outputs, runner
from pipeline.claims.book import COMMITTED, load
from pipeline.core.errors import InputError

MODELS = "data/embedded/models"


@pytest.fixture
def book(tmp_path):
    return load(written(tmp_path))


def test_only_missing_arms_are_run_and_a_failed_one_is_told():
    names = {"a": "ablation-a-1", "b": "ablation-b-1", "c": "ablation-c-1", "d": "ablation-d-1"}
    found = runner.plan(names, {"a": "done", "b": "missing", "c": "failed", "d": "killed"})
    assert found.missing == ["b", "c", "d"]
    assert found.remarks == ["arm c: was failed, runs again", "arm d: was killed, runs again"]


def unused():
    pytest.fail("nothing was to be stopped")


def test_a_failed_arm_leaves_the_others_alone():
    said, ran = [], []

    def execute(arm):
        ran.append(arm)
        if arm == "b":
            message = "a loss is NaN"
            raise InputError(message)

    names = {arm: f"ablation-{arm}-1" for arm in "abc"}
    failed = runner.run_arms(names, list("abc"), execute, jobs=1, stop=unused, say=said.append)
    assert failed == {"b": "a loss is NaN"}
    assert ran == list("abc")
    assert len(said) == 3
    assert "[2/3] b: FAILED: a loss is NaN (ablation-b-1" in said[1]


def test_a_defect_of_ours_is_no_failed_arm():
    def execute(arm):
        raise KeyError(arm)

    stopped = []
    with pytest.raises(KeyError):
        runner.run_arms({"a": "x"}, ["a"], execute, jobs=1, stop=lambda: stopped.append(1), say=lambda _: None)
    assert stopped == [1], "the other arms are not waited for"


def test_an_interrupt_stops_the_arms_that_run_and_starts_no_other(monkeypatch):
    running, stopped, ran = threading.Barrier(3, timeout=10), threading.Event(), []

    def execute(arm):
        ran.append(arm)
        running.wait()
        assert stopped.wait(10)
        raise CancelledError

    def interrupted(*_, **__):
        running.wait()  # both arms have begun
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "wait", interrupted)
    arms = list("abcd")
    with pytest.raises(KeyboardInterrupt):
        runner.run_arms(dict.fromkeys(arms, "x"), arms, execute, jobs=2, stop=stopped.set, say=lambda _: None)
    assert sorted(ran) == ["a", "b"]


def test_no_more_than_jobs_arms_run_at_once():
    running, most, lock, together = 0, 0, threading.Lock(), threading.Barrier(2, timeout=10)

    def execute(arm):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        together.wait()  # four arms, two at a time: nobody is left waiting
        with lock:
            running -= 1

    arms = list("abcd")
    assert runner.run_arms(dict.fromkeys(arms, "x"), arms, execute, jobs=2, stop=unused, say=lambda _: None) == {}
    assert most == 2


def test_the_last_try_of_an_arm_without_an_experiment(tmp_path):
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    folder = tmp_path / experiments.LOGS
    folder.mkdir(parents=True)
    (folder / "ablation-b-1.json").write_text(json.dumps({"state": "failed"}))
    (folder / "ablation-c-1.json").write_text(json.dumps({"state": "running"}))
    (folder / "ablation-d-1.json").write_text("{torn")
    names = {arm: f"ablation-{arm}-1" for arm in "abcd"}
    assert runner.states(tmp_path, names) == {"a": "missing", "b": "failed", "c": "killed", "d": "missing"}


def test_code_that_is_edited_meanwhile_stops_an_arm_only_if_it_rests_on_it(book, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "SECONDS_OF_STASH", 0.0)
    monkeypatch.setattr(experiments, "source_state", lambda root: "now")
    monkeypatch.setattr(experiments, "names", lambda root, arms: {"short": "ablation-short-2"})
    runner._same_sources(tmp_path, book, "short", "ablation-short-1", "now")
    runner._same_sources(tmp_path, book, "short", "ablation-short-2", "before")
    with pytest.raises(InputError, match="edited while the arms ran"):
        runner._same_sources(tmp_path, book, "short", "ablation-short-1", "before")


def test_files_that_come_back_were_not_edited(book, tmp_path, monkeypatch):
    seen = iter(["stashed", "stashed", "now"])
    monkeypatch.setattr(experiments, "source_state", lambda root: next(seen))
    runner._same_sources(tmp_path, book, "short", "ablation-short-1", "now")
    assert list(seen) == []


def arms(tmp_path, **diversity):
    """committed, with errors of two runs; and an arm each with a diversity by seed."""
    errors = {
        f"{MODELS}/{run}/errors.parquet": pd.DataFrame(
            {"split": 0, "seed": [0, 1, 2], "epoch": 4, "error_percent": values}
        )
        for run, values in {"a": [20.0, 22.0, 24.0], "b": [15.0, 16.5, 19.0]}.items()
    }
    made = {COMMITTED: MadeOutputs(tmp_path / "committed", errors)}
    for arm, values in diversity.items():
        frame = health({seed: [value] for seed, value in enumerate(values)})
        made[arm] = MadeOutputs(tmp_path / arm, {f"{MODELS}/a/health.parquet": frame})
    return made


def test_committed_results_are_judged_without_any_arm(book, tmp_path):
    found = runner.row(book, "runs", arms(tmp_path))
    assert (found.base, found.ablated, found.n_seeds) == (22.0, pytest.approx(50.5 / 3), 3)
    assert found.effect == pytest.approx((-5 - 5.5 - 5) / 3)
    assert found.verdict == "supported"
    assert found.metric == "classification_error(run=a -> b)"
    assert (found.ablation, found.targets, found.note) == ("", "", "of two runs")


def test_a_claim_whose_arm_is_missing_is_not_tested(book, tmp_path):
    found = runner.row(book, "rate", arms(tmp_path, short=[0.9, 0.8, 0.7]))
    assert (found.verdict, found.note) == ("not tested", "not run: strong")
    again = runner.row(book, "rate", arms(tmp_path, short=[0.9, 0.8, 0.7]), failed={"strong", "other"})
    assert (again.verdict, again.note) == ("not tested", "failed: strong"), "it ran, and a reader must know it"
    assert (found.base, found.effect, found.n_seeds) == (None, None, None)
    assert found.ablation == "train.rate=0.9"
    assert found.targets == "train@a"


@pytest.mark.parametrize(
    ("strong", "verdict"),
    [
        ([0.5, 0.4, 0.3], "supported"),
        ([0.85, 0.75, 0.65], "undecided"),  # sure, but less than what counts
        ([0.0, 0.8, 1.0], "undecided"),  # more than that, but not sure
        ([1.3, 1.2, 1.1], "contradicted"),
    ],
)
def test_arms_are_compared_by_seed(book, tmp_path, strong, verdict):
    found = runner.row(book, "rate", arms(tmp_path, short=[0.9, 0.8, 0.7], strong=strong))
    assert found.verdict == verdict
    assert found.effect == pytest.approx(sum(strong) / 3 - 0.8)


def test_other_seeds_are_said_to_be_no_pairs(book, tmp_path):
    found = runner.row(book, "rate", arms(tmp_path, short=[0.9, 0.8, 0.7], strong=[0.5, 0.4, 0.3, 0.2]))
    assert (found.n_seeds, found.note) == (3, "not in pairs")


def test_what_cannot_be_measured_is_said(book, tmp_path):
    made = arms(tmp_path, short=[0.9], strong=[0.2])
    del made[COMMITTED]
    made[COMMITTED] = MadeOutputs(tmp_path / "empty", {})
    found = runner.row(book, "runs", made)
    assert found.verdict == "not tested"
    assert found.note == "could not be measured: no output data/embedded/models/a/errors.parquet"
    assert runner.row(book, "rate", made).note == "1 of at least 3 numbers a side"


def test_an_unknown_claim_and_one_that_is_not_tested(book):
    assert runner._chosen(book, []) == ["rate", "runs"]
    with pytest.raises(InputError, match="--only: no claim 'luck'; expected rate, runs"):
        runner._chosen(book, ["rate", "luck"])
    with pytest.raises(InputError, match="people is not tested: nobody was asked"):
        runner._chosen(book, ["people"])


def test_bytes_are_found_through_the_lock(tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "1").write_text("one")
    (cache / "2.dir").write_text(json.dumps([{"md5": "1", "relpath": "inner/a.txt"}, {"md5": "9", "relpath": "b.txt"}]))
    lock = "stages:\n  s:\n    outs:\n    - {path: data/x, md5: '2.dir'}\n    - {path: data/y, md5: '1'}\n"
    (tmp_path / "dvc.lock").write_text(lock)
    for path in ("data/x", "data/x/inner/a.txt"):
        with pytest.raises(InputError, match=f"{path} is of other code, params or data"):
            outputs.committed(tmp_path, lambda md5: cache / md5, frozenset({"data/x"})).path(path)
    arm = outputs.LockedOutputs(
        who="arm short",
        locked=outputs.locked_outputs(lock),
        cache_path=lambda md5: cache / md5,
        reports=None,
        remedy="",
        not_made=frozenset({"data/x"}),
    )
    assert arm.path("data/y").read_text() == "one"
    for path in ("data/x", "data/x/inner/a.txt"):  # of the committed run: an ablation would have no effect on it
        with pytest.raises(InputError, match=f"arm short: its targets do not make {path}; add the stage to"):
            arm.path(path)
    found = outputs.committed(tmp_path, lambda md5: cache / md5, frozenset({"data/w"}))
    assert found.path("data/y").read_text() == "one"
    assert found.path("data/x/inner/a.txt").read_text() == "one"
    for name, said in (("data/z", "dvc.lock has no output"), ("data/x/c", "no output"), ("data/x/b.txt", "cache")):
        with pytest.raises(InputError, match=said) as error:
            found.path(name)
        assert "`make repro` first" in str(error.value)
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/t.csv").write_text("t")
    assert found.path("reports/t.csv").read_text() == "t"
