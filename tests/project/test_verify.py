"""The comparison on hand-made reports: what must be refused, and what another machine may change."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.core.errors import InputError
from pipeline.core.files import write_text
from pipeline.project import verify

OURS = "avx512+amx+bf16"
FLOORS = {"dcgan_table3": 1.0}
LOCK = "schema: '2.0'\nstages:\n  a:\n    cmd: one\n  b:\n    cmd: two\n"


def make(folder, *, gan=5.0, instruction_set=OURS, spread=0.5, csv_gan=None, png=b"png"):
    """Reports of one table, one figure and a page. The table's measured GAN error is ``gan``."""
    write_text(folder / "metrics/provenance.json", json.dumps({"device": "cpu", "instruction_set": instruction_set}))
    metrics = {"gan": {"test_error_50k": gan}, "real_data": {"test_error_50k": 3.0}}
    write_text(folder / "metrics/dcgan_table3.json", json.dumps(metrics))
    rows = ["row,column,measured,spread", f"GAN,Test error @50K,{csv_gan or gan},{spread}"]
    rows += ["Real Data,Test error @50K,3.0,", "CNN,Test error @50K,,"]
    write_text(folder / "tables/dcgan_table3.csv", "\n".join(rows) + "\n")
    write_text(folder / "tables/dcgan_table3.md", f"| GAN | {gan} |\n")
    write_text(folder / "report.md", f"error {gan}\n")
    (folder / "figures").mkdir()
    (folder / "figures/dcgan_fig9.png").write_bytes(png)
    return folder


@pytest.fixture
def committed(tmp_path):
    return make(tmp_path / "committed")


def compare(committed, rerun):
    return verify.compare(committed, rerun, FLOORS)


def test_equal_bytes(committed, tmp_path):
    found = compare(committed, make(tmp_path / "rerun"))
    assert found.agrees
    assert found.same_machine
    assert found.different == []
    assert found.lines == [
        f"{name}: agrees in bytes" for name in ("dcgan_fig9", "dcgan_table3", "provenance", "report")
    ]


def test_a_hand_edited_metric_differs_on_the_same_machine(committed, tmp_path):
    rerun = make(tmp_path / "rerun")
    path = committed / "metrics/dcgan_table3.json"
    path.write_text(path.read_text().replace("5.0", "4.99"))
    found = compare(committed, rerun)
    assert not found.agrees
    expected = "dcgan_table3: DIFFERS: gan / test_error_50k: committed 4.99, rerun 5.0, allowed difference 0"
    assert expected in found.lines
    assert found.different == ["dcgan_table3"]


@pytest.mark.parametrize(
    "edited", ["tables/dcgan_table3.md", "report.md", "figures/dcgan_fig9.png", "metrics/provenance.json"]
)
def test_any_other_byte_differs_on_the_same_machine(committed, tmp_path, edited):
    rerun = make(tmp_path / "rerun")
    (committed / edited).write_bytes((committed / edited).read_bytes() + b" ")
    found = compare(committed, rerun)
    assert not found.agrees
    assert f"{Path(edited).stem}: DIFFERS: {edited} has other bytes" in found.lines


def test_another_machine_may_differ_by_three_spreads_and_the_floor(committed, tmp_path):
    rerun = make(tmp_path / "rerun", gan=7.4, instruction_set="avx2", png=b"other")
    found = compare(committed, rerun)
    assert found.agrees
    assert not found.same_machine
    assert "dcgan_table3: agrees within tolerance (largest difference 2.4, allowed 2.5)" in found.lines
    assert "dcgan_fig9: exists, with other bytes" in found.lines
    assert found.different == ["dcgan_fig9", "dcgan_table3", "provenance", "report"]


def test_another_machine_may_not_differ_by_more(committed, tmp_path):
    rerun = make(tmp_path / "rerun", gan=7.6, instruction_set="avx2")
    found = compare(committed, rerun)
    assert not found.agrees
    differs = [line for line in found.lines if "DIFFERS" in line]
    assert differs == ["dcgan_table3: DIFFERS: gan / test_error_50k: committed 5.0, rerun 7.6, allowed difference 2.5"]


def test_the_larger_spread_of_both_sides_counts(committed, tmp_path):
    assert compare(committed, make(tmp_path / "rerun", gan=7.6, spread=0.6, instruction_set="avx2")).agrees
    wider = make(tmp_path / "wider", spread=0.6)
    assert compare(wider, make(tmp_path / "again", gan=7.6, spread=0.5, instruction_set="avx2")).agrees


def test_a_number_without_spread_has_the_floor_only(committed, tmp_path):
    rerun = make(tmp_path / "rerun", instruction_set="avx2")
    path = rerun / "metrics/dcgan_table3.json"
    path.write_text(path.read_text().replace("3.0", "3.9"))
    assert compare(committed, rerun).agrees
    path.write_text(path.read_text().replace("3.9", "4.1"))
    assert not compare(committed, rerun).agrees
    assert not verify.compare(committed, rerun, {}).agrees


def test_an_edited_csv_is_seen_on_another_machine(committed, tmp_path):
    make(tmp_path / "edited", csv_gan=1.0)
    assert not compare(tmp_path / "edited", make(tmp_path / "rerun", instruction_set="avx2")).agrees


@pytest.mark.parametrize("value", ['"text"', "null", "NaN"])
def test_a_metric_that_is_no_number_differs(committed, tmp_path, value):
    rerun = make(tmp_path / "rerun", instruction_set="avx2")
    path = rerun / "metrics/dcgan_table3.json"
    path.write_text(path.read_text().replace("5.0", value))
    assert not compare(committed, rerun).agrees


@pytest.mark.parametrize("instruction_set", [OURS, "avx2"])
@pytest.mark.parametrize("file", ["figures/dcgan_fig9.png", "metrics/dcgan_table3.json"])
def test_a_missing_file(committed, tmp_path, file, instruction_set):
    rerun = make(tmp_path / "rerun", instruction_set=instruction_set)
    (rerun / file).unlink()
    found = compare(committed, rerun)
    assert not found.agrees
    assert f"{Path(file).stem}: DIFFERS: {file} is missing from the rerun" in found.lines
    make_again = make(tmp_path / "again", instruction_set=instruction_set)
    (committed / file).unlink()
    assert f"{Path(file).stem}: DIFFERS: {file} is missing in the checkout" in compare(committed, make_again).lines


def test_no_reports_at_all_is_no_agreement(tmp_path):
    assert not compare(tmp_path / "committed", tmp_path / "rerun").agrees


def test_the_lock_counts_on_the_same_machine(committed, tmp_path):
    ours, theirs = tmp_path / "ours.lock", tmp_path / "theirs.lock"
    ours.write_text(LOCK)
    same, other = (
        compare(committed, make(tmp_path / "r1")),
        compare(committed, make(tmp_path / "r2", instruction_set="x")),
    )
    for text, in_same, in_other, line in (
        (LOCK, True, True, "agrees in bytes"),
        ("stages:\n  b:\n    cmd: two\n  a:\n    cmd: one\n", True, True, "another order"),
        (LOCK.replace("two", "three"), False, True, "stages b"),
    ):
        theirs.write_text(text)
        assert verify.with_lock(same, ours, theirs).agrees == in_same
        assert verify.with_lock(other, ours, theirs).agrees == in_other
        assert line in verify.with_lock(same, ours, theirs).lines[-1]
    theirs.unlink()
    assert not verify.with_lock(same, ours, theirs).agrees


def test_every_committed_metric_has_a_floor(root):
    """Without one, any difference on another machine would be refused."""
    tables = {path.stem for path in (root / verify.REPORTS / "metrics").glob("*.json")} - {"provenance"}
    assert tables <= set(verify.FLOORS)


# ---- with Git ----


def git(folder, *arguments):
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path):
    root = tmp_path / "checkout"
    make(root / verify.REPORTS)
    write_text(root / ".gitignore", "/data/\n")
    write_text(root / "kept.txt", "kept\n")
    write_text(root / "deleted.txt", "deleted\n")
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "reports")
    return root


def test_the_clone_is_the_working_tree_as_it_stands(checkout, tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))  # as under a Git hook
    (checkout / "kept.txt").write_text("edited\n")
    (checkout / "deleted.txt").unlink()
    (checkout / "new.txt").write_text("new\n")
    write_text(checkout / "data/ignored.txt", "ignored\n")
    clone = tmp_path / "clone"
    verify.copy_working_tree(checkout, clone)
    assert sorted(path.name for path in clone.iterdir()) == [".git", ".gitignore", "kept.txt", "new.txt", "reports"]
    assert (clone / "kept.txt").read_text() == "edited\n"


def test_no_checkout_is_said_in_a_sentence(tmp_path):
    with pytest.raises(InputError, match="run from a Git checkout"):
        verify.verify(tmp_path)
    assert verify.compare_with_head(tmp_path) == []


def test_after_a_run_that_changed_nothing(checkout):
    assert verify.compare_with_head(checkout) == ["reports/embedded: the same bytes as in the last commit"]


def test_after_a_run_with_other_params(checkout):
    (checkout / verify.REPORTS / "report.md").write_text("other\n")
    (line,) = verify.compare_with_head(checkout)
    assert line.startswith("reports/embedded: differs from the last commit in report;")


@pytest.mark.parametrize(("gan", "verdict"), [(5.5, "every metric agrees"), (9.0, "some differ by more")])
def test_after_a_run_on_another_machine(checkout, tmp_path, gan, verdict):
    reports = checkout / verify.REPORTS
    make(tmp_path / "other", gan=gan, instruction_set="avx2")
    git(checkout, "rm", "-r", "--quiet", "--cached", str(verify.REPORTS))  # the index does not matter, HEAD does
    reports.rename(tmp_path / "old")
    (tmp_path / "other").rename(reports)
    lines = verify.compare_with_head(checkout)
    assert "this machine (avx2)" in lines[0]
    assert f"({OURS})" in lines[0]
    assert verdict in lines[0]


def test_before_the_first_commit_there_is_nothing_to_compare(tmp_path):
    make(tmp_path / verify.REPORTS)
    git(tmp_path, "init", "--quiet")
    assert verify.compare_with_head(tmp_path) == []


TOY_STAGE = """\
import json, sys
from pathlib import Path
reports = Path("reports/embedded")
(reports / "metrics").mkdir(parents=True, exist_ok=True)
(reports / "metrics/provenance.json").write_text(json.dumps({"instruction_set": "toy"}))
(reports / "metrics/toy.json").write_text(json.dumps({"row": {"column": 1.0}}))
"""
TOY_GRAPH = """\
stages:
  toy:
    cmd: exec python toy.py
    deps:
      - toy.py
    metrics:
      - reports/embedded/metrics/provenance.json:
          cache: false
      - reports/embedded/metrics/toy.json:
          cache: false
"""


def test_a_whole_verification(tmp_path, monkeypatch):
    """A one-stage project: agrees as committed; an edited metric is found though Git and dvc.lock do not know it."""
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    root = tmp_path / "toy"
    for name, text in {"dvc.yaml": TOY_GRAPH, "toy.py": TOY_STAGE, ".gitignore": "/.work/\n"}.items():
        write_text(root / name, text)
    git(root, "init", "--quiet")
    run = [sys.executable, "-m", "dvc"]
    subprocess.run([*run, "init", "--quiet"], cwd=root, check=True)
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    subprocess.run([*run, "repro", "--quiet"], cwd=root, check=True, env={"PATH": path, "HOME": str(tmp_path)})
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "toy")
    found = verify.verify(root)
    assert found.agrees, found.lines
    assert found.lines == ["provenance: agrees in bytes", "toy: agrees in bytes", "dvc.lock: agrees in bytes"]
    write_text(root / verify.SOURCES[0], "no stage writes this\n")
    assert verify.verify(root).lines == found.lines
    write_text(root / verify.REPORTS / "metrics/toy.json", json.dumps({"row": {"column": 0.5}}))
    found = verify.verify(root)
    assert not found.agrees
    assert "toy: DIFFERS: row / column: committed 0.5, rerun 1.0, allowed difference 0" in found.lines
    assert (root / verify.KEPT / verify.REPORTS / "metrics/toy.json").is_file()
    write_text(root / "toy.py", "raise SystemExit(3)\n")
    with pytest.raises(InputError, match="ended with status"):
        verify.verify(root)


@pytest.mark.parametrize(
    ("table", "key", "allowed"),
    [
        ("datasets", ("cifar_10", "labels"), 0.0),
        ("datasets", ("svhn", "rejected"), 0.0),
        ("datasets", ("lsun_bedrooms_deduplicated", "false_positives"), 1.0),
        ("datasets", ("lsun_bedrooms_deduplicated", "duplicates"), 60.0),
        ("datasets", ("faces", "photos"), 0.0),
        ("duplicates", ("lsun", "best", "radius"), 1.0),
        ("duplicates", ("lsun", "best", "offsets"), 0.0),
        ("duplicates", ("lsun", "best", "recall_percent"), 8.0),
        ("faces", ("plain", "n_true"), 0.0),
        ("dcgan_table3", ("gan", "anything"), 1.0),
        ("dcgan_fig6", ("layer_8x8", "n_maps"), 0.0),
        ("dcgan_fig6", ("layer_8x8", "windows_dropped", "windows"), 150.0),
        ("dcgan_fig6", ("layer_8x8", "windows_dropped", "windows_fall_percent"), 50.0),
        ("dcgan_fig6", ("layer_8x8", "windows_dropped", "beds_fall_percent"), 90.0),
        ("dcgan_fig6", ("layer_8x8", "windows_dropped", "beds_kept"), 270.0),
        ("dcgan_table1", ("dcgan_trained_on_cifar_10_l2_svm", "accuracy_full_train"), 10.0),
        ("dcgan_table1", ("dcgan_ours_l2_svm", "accuracy_full_train"), 4.0),
        ("dcgan_fig7", ("z", "exemplars_3", "share_percent"), 20.0),
        ("dcgan_fig8", ("correlation_within_samples",), 0.25),
        ("sample_distances", ("dcgan_lsun", "mean_distance", "held_out", "n_1000"), 5.0),
        ("improved_table1", ("our_model", "labels_20"), 600.0),
        ("improved_table1", ("minibatch_discrimination_model", "labels_4000"), 4500.0),
        ("improved_table2", ("our_model", "labels_1000"), 13.0),
        ("semisup_errors", ("mnist", "mnist_20", "n_networks"), 0.0),
        ("semisup_errors", ("mnist", "mnist_20", "n_steps"), 0.0),
        ("semisup_errors", ("mnist", "mnist_20", "n_gained"), 1.0),
        ("semisup_errors", ("cifar10", "cifar10_2000", "n_gained"), 2.0),
        ("semisup_errors", ("mnist", "mb_mnist", "n_d_won"), 1.0),
        ("semisup_errors", ("svhn", "mb_svhn", "lowest_unsupervised_loss"), 0.18),
        ("semisup_errors", ("mnist", "mnist_20", "gain_points"), 10.0),
        ("semisup_errors", ("svhn", "mb_svhn", "final_error_percent"), 14.0),
        ("semisup_errors", ("svhn", "svhn_500", "final_error_percent"), 9.0),
        ("improved_fig3", ("feature_matching", "nearest_other"), 300.0),
        ("improved_fig4", ("minibatch_discrimination", "nearest_other"), 190.0),
        ("improved_fig5", ("feature_matching", "nearest_other"), 860.0),
        ("improved_fig5", ("feature_matching", "n_images"), 0.0),
        ("improved_table3", ("real_data", "classifier_accuracy"), 3.0),
        ("improved_table3", ("our_methods", "classifier_score"), 1.0),
        ("improved_table3", ("our_methods", "classifier_score_split_spread"), 0.3),
        ("improved_table3", ("vbn_bn", "classifier_kernel"), 100.0),
        ("improved_table3", ("l_ha", "classifier_recall"), 0.25),
        ("improved_table3_scores", ("is_ours", "n_images"), 0.0),
        ("improved_table3_scores", ("is_ours", "classifier_score_n_seeds"), 0.0),
        ("improved_table3_scores", ("is_ours", "classifier_score_seed_sd"), 1.4),
        ("improved_table3_scores", ("is_ours", "classifier_score"), 2.7),
        ("improved_table3_samples", ("real", "nearest_other"), 0.0),
        ("improved_table3_samples", ("is_bn", "nearest_other"), 550.0),
        ("improved_table3_samples", ("is_bn", "diversity"), 0.5),
        ("improved_fig6", ("improved", "epoch"), 0.0),
        ("improved_fig6", ("dcgan", "mean_distance"), 4000.0),
        ("improved_fig6", ("dcgan", "nearest_other"), 1000.0),
        ("improved_fig6", ("improved", "nearest_other"), 10000.0),
        ("improved_fig6", ("improved", "mean_distance"), 15000.0),
        ("improved_fig2", ("n_mistakes",), 0.0),
        ("improved_fig2", ("n_generated",), 1.0),
        ("samples_imagenet128_dcgan", ("last_epoch",), 0.0),
    ],
)
def test_each_kind_of_number_has_its_own_floor(tmp_path, table, key, allowed):
    tolerance = verify._Tolerance(table, tmp_path, tmp_path, verify.FLOORS[table])
    assert tolerance.of(key) == allowed


def test_no_floor_is_named_twice():
    """A key that stands twice in a dictionary silently hides the first."""
    tree = ast.parse(Path(verify.__file__).read_text(encoding="utf-8"))
    for node in (node for node in ast.walk(tree) if isinstance(node, ast.Dict)):
        names = [key.value for key in node.keys if isinstance(key, ast.Constant)]
        names += [name.value for spread in node.values if isinstance(spread, ast.Call) for name in named(spread)]
        assert len(names) == len(set(names)), names


def named(call):
    """The keys of ``dict.fromkeys((...), 0.0)``."""
    from_keys = isinstance(call.func, ast.Attribute) and call.func.attr == "fromkeys"
    return call.args[0].elts if from_keys else []
