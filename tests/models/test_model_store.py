"""Model folders: what is written comes back, bytes repeat, and a file of another network is refused by name."""

import json
import struct
from pathlib import Path

import pandas as pd
import pytest
import torch

from pipeline.core.errors import InputError
from pipeline.core.seeding import torch_stream
from pipeline.models import mnist, store
from pipeline.models.build import MnistArchitecture, read_architecture
from pipeline.models.layers import initialise


def network(hidden: int = 16, seed: int = 0) -> torch.nn.Module:
    net = mnist.dcgan_generator(z_dim=6, n=4, hidden=hidden)
    initialise(net, 0.02, torch_stream(seed, "initial"))
    return net


def model_file(folder: Path, **kept: torch.nn.Module) -> Path:
    path = folder / store.NETWORKS_FILE
    tensors: dict[str, torch.Tensor] = {}
    for prefix, net in kept.items():
        tensors |= store.named_tensors(prefix.replace("__", "/"), net)
    store.write_tensors(path, tensors)
    return path


def test_round_trip(tmp_path: Path):
    written, other = network(seed=1), network(seed=2)
    path = model_file(tmp_path, seed0__generator=written, seed0__generator_last=other)
    read = network(seed=3)
    store.load_into(read, store.read_tensors(path), "seed0/generator", path)
    for got, expected, wrong in zip(read.parameters(), written.parameters(), other.parameters(), strict=True):
        assert torch.equal(got, expected)
        assert not torch.equal(got, wrong)


def test_named_tensors_are_plain_fp32_cpu_arrays():
    tensors = store.named_tensors("seed0/generator", network())
    assert [*tensors] == [f"seed0/generator/layers.{row}.0.weight" for row in range(4)]
    assert all(t.dtype == torch.float32 and t.is_contiguous() and not t.requires_grad for t in tensors.values())


def test_same_tensors_same_bytes_and_no_pickle(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = model_file(tmp_path / "a", seed0__generator=network()).read_bytes()
    assert model_file(tmp_path / "b", seed0__generator=network()).read_bytes() == first
    assert model_file(tmp_path / "b", seed0__generator=network(seed=1)).read_bytes() != first
    (length,) = struct.unpack("<Q", first[:8])  # safetensors: length of the header, the header in JSON, raw numbers
    header = json.loads(first[8 : 8 + length])
    assert {*header} == {f"seed0/generator/layers.{row}.0.weight" for row in range(4)}
    assert len(first) == 8 + length + 4 * sum(weight.numel() for weight in network().parameters())


def test_note_comes_back(tmp_path: Path):
    path = tmp_path / "noted.safetensors"
    store.write_tensors(path, {"x": torch.zeros(2)}, note='{"step": 7}')
    assert store.read_note(path) == '{"step": 7}'
    store.write_tensors(path, {"x": torch.zeros(2)})
    assert store.read_note(path) == ""


def test_another_width_is_refused(tmp_path: Path):
    path = model_file(tmp_path, seed0__generator=network(hidden=16))
    message = rf"{path}: 'seed0/generator' is not this network .*layers\.0\.0\.weight: expected 20x16, found 16x16.*dvc"
    with pytest.raises(InputError, match=message):
        store.load_into(network(hidden=20), store.read_tensors(path), "seed0/generator", path)


def test_a_missing_and_a_superfluous_tensor_are_refused(tmp_path: Path):
    tensors = store.named_tensors("g", network())
    weight = tensors.pop("g/layers.2.0.weight")
    with pytest.raises(InputError, match=r"1 tensors differ; first layers\.2\.0\.weight.*found no such tensor"):
        store.load_into(network(), tensors, "g", tmp_path)
    tensors |= {"g/layers.2.0.weight": weight, "g/layers.9.bias": torch.zeros(3)}
    with pytest.raises(InputError, match=r"layers\.9\.bias: expected no such tensor, found 3"):
        store.load_into(network(), tensors, "g", tmp_path)
    with pytest.raises(InputError, match=r"4 tensors differ"):
        store.load_into(network(), tensors, "seed0/generator", tmp_path)


def test_a_refused_file_leaves_the_network_alone(tmp_path: Path):
    net, before = network(), [weight.clone() for weight in network().parameters()]
    tensors = store.named_tensors("g", network(seed=1))
    tensors.pop("g/layers.3.0.weight")
    with pytest.raises(InputError):
        store.load_into(net, tensors, "g", tmp_path)
    assert all(torch.equal(now, then) for now, then in zip(net.parameters(), before, strict=True))


@pytest.mark.parametrize("kept", [0, 4, 100, 2000, -1], ids=["empty", "4 bytes", "in the header", "2000", "one short"])
def test_a_truncated_file_is_refused(tmp_path: Path, kept: int):
    path = model_file(tmp_path, seed0__generator=network())
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match=f"{path}: not a whole safetensors file"):
        store.read_tensors(path)


def test_a_missing_file_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match=f"{tmp_path}/networks.safetensors: missing"):
        store.read_tensors(tmp_path / store.NETWORKS_FILE)
    with pytest.raises(InputError, match=f"{tmp_path}/run.json: missing"):
        store.read_run(tmp_path)


def test_seeds_of_a_folder(tmp_path: Path):
    store.write_model(tmp_path / "model", {}, {"params": {"seeds": [10, 2, 0]}}, {})
    assert store.seeds(tmp_path / "model") == [0, 2, 10]


def test_only_what_was_asked_for_is_read(tmp_path: Path):
    tensors = {f"seed{seed}/{net}/weight": torch.full((2,), float(seed)) for seed in (1, 10) for net in ("a", "b")}
    path = tmp_path / store.NETWORKS_FILE
    store.write_tensors(path, tensors)
    assert set(store.read_tensors(path)) == set(tensors)
    assert list(store.read_tensors(path, "seed1/a/")) == ["seed1/a/weight"], "seed10 begins alike"


RUN = {
    "steps": 12,
    "params": {"l2": 2.5e-5, "architecture": {"name": "dcgan_mnist", "z_dim": 6, "filters": 4, "hidden": 16}},
}


def test_model_folder_round_trip(tmp_path: Path):
    model = tmp_path / "models" / "dcgan_mnist"
    tensors = store.named_tensors("seed0/generator", network())
    history = pd.DataFrame({"seed": [0, 0], "step": [1, 2], "d_loss": [0.5, float("nan")]})
    store.write_model(model, tensors, RUN, {"history": history})
    assert sorted(path.name for path in model.iterdir()) == ["history.parquet", "networks.safetensors", "run.json"]
    assert store.read_run(model) == RUN
    assert read_architecture(model) == MnistArchitecture(name="dcgan_mnist", z_dim=6, filters=4, hidden=16)
    read = store.read_tensors(model / store.NETWORKS_FILE)
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())
    pd.testing.assert_frame_equal(pd.read_parquet(model / "history.parquet"), history)


def test_same_model_same_bytes_whatever_the_order_of_keys(tmp_path: Path):
    tensors, tables = store.named_tensors("seed0/generator", network()), {"history": pd.DataFrame({"step": [1, 2]})}
    store.write_model(tmp_path / "a", tensors, RUN, tables)
    store.write_model(tmp_path / "b", tensors, dict(reversed(RUN.items())), tables)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_a_model_that_cannot_be_written_whole_replaces_nothing(tmp_path: Path):
    model = tmp_path / "model"
    store.write_model(model, store.named_tensors("seed0/generator", network()), RUN, {})
    before = (model / store.NETWORKS_FILE).read_bytes()
    with pytest.raises(TypeError):
        store.write_model(model, store.named_tensors("seed0/generator", network(seed=1)), {"steps": object()}, {})
    assert (model / store.NETWORKS_FILE).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
