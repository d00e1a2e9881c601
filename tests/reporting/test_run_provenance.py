"""What a training run rests on: hashes that follow its params, its data and its code, and nothing else."""

import hashlib
import json
from pathlib import Path

import made_report as made
import pytest

from pipeline.core.errors import InputError
from pipeline.core.source_code import fingerprint, imported_files
from pipeline.reporting import provenance
from stages import provenance as stage


def test_equal_params_have_equal_hashes_in_any_order():
    params = {"beta1": 0.5, "architecture": {"filters": 16, "z_dim": 100}}
    same = {"architecture": {"z_dim": 100, "filters": 16}, "beta1": 0.5}
    found = provenance.params_hash(params)
    assert found == provenance.params_hash(same)
    assert found == hashlib.sha256(b'{"architecture":{"filters":16,"z_dim":100},"beta1":0.5}').hexdigest()


@pytest.mark.parametrize("other", [{"beta1": 0.9}, {"beta1": 0.5, "l2": None}, {"beta1": "0.5"}])
def test_other_params_have_another_hash(other):
    assert provenance.params_hash(other) != provenance.params_hash({"beta1": 0.5})


def test_runs_are_told_by_their_records(tmp_path):
    made.write_run(tmp_path, "b", architecture={"filters": 16}, released=None)
    made.write_run(tmp_path, "a", recorded=False)
    (tmp_path / "empty").mkdir()  # dvc checkout leaves such folders
    a, b = made.recorded_runs(tmp_path)
    assert (a.name, a.dataset, a.data, a.code, a.networks) == ("a", "mnist", *[provenance.NOT_RECORDED] * 3)
    assert (b.data, b.code, b.networks) == (made.HASH,) * 3
    assert b.params == provenance.params_hash(
        {"seeds": [0, 1], "dataset": "mnist", "architecture": {"filters": 16}, "released": None}
    )
    assert a.params != b.params
    assert b.settings == {"architecture.filters": "16", "dataset": "mnist", "released": "null", "seeds": "0, 1"}
    assert b.machine == {"device": "cpu", "instruction_set": "avx512", "precision": "bf16", "threads": "2"}


def test_hashes_are_found_by_name_in_folders_of_folders(tmp_path):
    made.write_run(tmp_path, "mnist/mnist-100", recorded=False)
    hashes = {"mnist-100": dict.fromkeys(("code", "data", "networks"), made.HASH)}
    (run,) = provenance.read_runs(tmp_path, hashes, depth=2)
    assert (run.name, run.dataset, run.code) == ("mnist-100", "mnist", made.HASH)


def test_no_records_are_no_runs(tmp_path):
    assert made.recorded_runs(tmp_path / "nowhere") == []


def test_folders_of_folders(tmp_path):
    for place in ("mnist/b", "mnist/a", "cifar10/c"):
        made.write_run(tmp_path, place, recorded=False)
    assert [run.name for run in made.recorded_runs(tmp_path, depth=2)] == ["c", "a", "b"]
    assert made.recorded_runs(tmp_path) == []


@pytest.mark.parametrize(("content", "said"), [("{", "not valid JSON"), ("{}", None), ('{"run": "x"}', "no 'params'")])
def test_a_broken_record_is_refused(tmp_path, content, said):
    folder = made.write_run(tmp_path, "x", recorded=False)
    (folder / "run.json").write_text(content)
    if said is None:
        assert made.recorded_runs(tmp_path) == []
        return
    with pytest.raises(InputError, match=said):
        made.recorded_runs(tmp_path)


# ---- the stage that records it --------------------------------------------------------------------------------------


@pytest.fixture
def recorded(root, tmp_path, monkeypatch):
    """Runs the stage on the made-up networks of two stages, and images; gives its record."""
    models, images = tmp_path / "models", tmp_path / "sets/mnist"
    images.mkdir(parents=True)
    (images / "images.npy").write_bytes(b"images")
    for name, made_by in {"x": "train", "y": "imagenet128", "classifier": None}.items():
        (models / name).mkdir(parents=True)
        (models / name / "networks.safetensors").write_bytes(f"networks of {name}".encode())
        run = {"params": {"dataset": "mnist"}} | ({"stage": made_by} if made_by else {})
        (models / name / "run.json").write_text(json.dumps(run))
    monkeypatch.chdir(root)

    def run():
        stage.main(Path("params.yaml"), models, images.parent, tmp_path / "runs/provenance.json")
        return json.loads((tmp_path / "runs/provenance.json").read_text())

    return run, models, images


def test_the_record_holds_what_each_model_rests_on(recorded, tmp_path):
    run, _, _ = recorded
    found = run()
    assert [*found] == ["x", "y"], "the classifier is of none of these stages"
    assert found["x"]["networks"] == hashlib.sha256(b"networks of x").hexdigest()
    assert found["x"]["code"] == fingerprint(imported_files(Path("stages/train.py")))
    assert found["y"]["code"] == fingerprint(imported_files(Path("stages/imagenet128.py"))) != found["x"]["code"]
    assert found["x"]["data"] == found["y"]["data"]
    assert str(tmp_path) not in json.dumps(found)


def test_another_image_or_file_is_another_set(recorded):
    run, _, images = recorded
    first = run()
    assert run() == first
    (images / "images.npy").write_bytes(b"imagee")
    changed = run()
    (images / "images.npy").write_bytes(b"images")
    (images / "index.parquet").write_bytes(b"")
    assert len({first["x"]["data"], changed["x"]["data"], run()["x"]["data"]}) == 3
    assert run()["x"]["code"] == first["x"]["code"]


def test_a_model_whose_set_is_gone_is_named(recorded):
    run, models, images = recorded
    images.rename(images.with_name("other"))
    with pytest.raises(
        InputError, match=rf"mnist: missing, though {models / 'x'} was trained on it; remove that folder"
    ):
        run()


def test_other_networks_have_another_hash(recorded):
    run, models, _ = recorded
    first = run()
    (models / "x/networks.safetensors").write_bytes(b"others")
    second = run()
    assert second["x"]["networks"] != first["x"]["networks"]
    assert second["y"] == first["y"]


def test_the_stage_depends_on_the_code_that_it_hashes():
    known = set(imported_files(Path("stages/provenance.py"), made.ROOT))
    for script in stage.STAGES:
        assert set(imported_files(Path(f"stages/{script}.py"), made.ROOT)) <= known
