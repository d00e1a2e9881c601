"""A model folder from released arrays: those of networks of ours, written in the authors' layout, come back."""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from made_runs import GAN_MNIST, SVHN, made_run
from ruamel.yaml import YAML
from torch import nn

from pipeline.core.compute import Compute
from pipeline.core.errors import InputError
from pipeline.core.seeding import torch_stream
from pipeline.core.store import no_rejects, write_set
from pipeline.models import dcgan
from pipeline.models.build import build_generator, trained_discriminator
from pipeline.models.layers import Convolution, Deconvolution, Linear, initialise
from pipeline.models.released import Released
from pipeline.models.store import read_into, read_run
from pipeline.training.adversarial import Run, initial_networks, nothing_trained
from pipeline.training.take_released import Taken, take_released
from stages import train

ROOT = Path(__file__).resolve().parents[2]
RELEASED = Released(
    folder="svhn/arrays", generator="*_gen_params.jl_*.npy", discriminator="*_discrim_params.jl_*.npy", sha256=None
)
WHERE = "params.yaml, train.runs.dcgan_svhn"


def run_of(**changes: object) -> Run:
    return made_run(**({"n_samples": 6, "seeds": [7], "released": RELEASED} | changes))


def originals() -> tuple[nn.Sequential, nn.Sequential]:
    pair = dcgan.generator_svhn(z_dim=5, n=2), dcgan.discriminator_svhn(n=2)
    for number, network in enumerate(pair):
        initialise(network, 0.2, torch_stream(number, "original"))
    return pair


def in_their_layout(network: nn.Module) -> list[np.ndarray]:
    """Kernels turned by 180 degrees, linear weights (in, out)."""
    arrays = []
    for part in network.modules():
        for parameter in part.parameters(recurse=False):
            values = parameter.detach().numpy()
            if isinstance(part, (Convolution, Deconvolution)):
                values = values[:, :, ::-1, ::-1]
            arrays.append(np.ascontiguousarray(values.T if isinstance(part, Linear) else values))
    return arrays


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Below GAN_DATA: 10 arrays of the generator, 8 of the discriminator, as the authors name them."""
    monkeypatch.setenv("GAN_DATA", str(tmp_path / "data"))
    folder = tmp_path / "data" / "svhn" / "arrays"
    folder.mkdir(parents=True)
    for kind, network in zip(("gen", "discrim"), originals(), strict=True):
        for place, array in enumerate(in_their_layout(network), start=1):
            np.save(folder / f"200_{kind}_params.jl_{place:02d}.npy", array)
    return folder


def drop(folder: Path, kind: str, first: int) -> None:
    """Remove a network's arrays from a place on."""
    for path in folder.glob(f"*_{kind}_*.npy"):
        if int(path.stem[-2:]) >= first:
            path.unlink()


def taken(**changes: object) -> Taken:
    released = dataclasses.replace(RELEASED, **changes)
    return take_released(run_of(released=released), released, WHERE)


def refused(match: str, run: Run | None = None, **changes: object) -> None:
    released = dataclasses.replace(RELEASED, **changes)
    with pytest.raises(InputError, match=match):
        take_released(run or run_of(), released, WHERE)


def listing(folder: Path, pattern: str = "*.npy") -> str:
    lines = [
        f"{name}\0{hashlib.sha256((folder / name).read_bytes()).hexdigest()}\n"
        for name in sorted(path.name for path in folder.glob(pattern))
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


# ---- taken ----------------------------------------------------------------------------------------------------------


def test_both_networks_come_back(folder: Path):
    found = taken()
    expected = {
        f"seed7/{name}/{key}": tensor
        for name, network in zip(("generator", "discriminator"), originals(), strict=True)
        for key, tensor in network.state_dict().items()
    }
    assert {*found.tensors} == {*expected}
    assert all(torch.equal(found.tensors[key], tensor) for key, tensor in expected.items())
    assert found.discriminator_rows == 4
    assert found.listing == listing(folder)


@pytest.mark.parametrize(("n_arrays", "rows"), [(1, 1), (4, 2), (7, 3), (8, 4)])
def test_the_first_rows_of_the_discriminator_alone(folder: Path, n_arrays: int, rows: int):
    drop(folder, "discrim", n_arrays + 1)
    found = taken(generator=None)
    assert (len(found.tensors), found.discriminator_rows) == (n_arrays, rows)
    assert {key.split("/")[1] for key in found.tensors} == {"discriminator"}
    assert found.listing == listing(folder, "*discrim*.npy"), "what is not named is not in the listing"


def test_the_generator_alone(folder: Path):
    found = taken(discriminator=None)
    assert (len(found.tensors), found.discriminator_rows) == (10, 0)
    assert {key.split("/")[1] for key in found.tensors} == {"generator"}


def test_the_pinned_listing_is_accepted(folder: Path):
    assert taken(sha256=listing(folder)).listing == listing(folder)


def test_nothing_trained_has_the_tables_and_no_rows():
    trained = nothing_trained(run_of(), {"seed7/generator/x": torch.zeros(1)})
    fresh = {"history": 10, "validation": 6, "health": 4}
    assert {name: getattr(trained, name).shape for name in fresh} == {name: (0, n) for name, n in fresh.items()}
    assert trained.samples.shape == (0, 6, 32, 32, 3)
    assert (trained.samples.dtype, len(trained.sample_epochs)) == (np.uint8, 0)
    assert (trained.steps, trained.images) == (0, 0)


# ---- the stage, and what reads its model folder ---------------------------------------------------------------------


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict], Path]:
    """Run the stage on the released arrays; the model folder."""
    monkeypatch.setattr(train.compute, "set_up", lambda _: None)  # would change torch for the tests that follow

    def run(released: dict) -> Path:
        values = YAML(typ="safe").load(ROOT / "params.yaml")
        own = values["train"]["runs"]["dcgan_svhn"]
        own |= {"seeds": [7], "released": dataclasses.asdict(RELEASED) | released}
        own["architecture"] |= {"filters": 2, "z_dim": 5}
        YAML().dump(values, tmp_path / "params.yaml")
        index = pd.DataFrame({"key": ["a"], "split": "train", "label": -1, "source": ""})
        write_set(tmp_path / "set", np.zeros((1, 32, 32, 3), dtype=np.uint8), index, no_rejects())
        outs = [tmp_path / "out" / name for name in ("model", "small", "samples.npz", "curves.csv")]
        train.main(tmp_path / "params.yaml", "dcgan_svhn", tmp_path / "set", *outs)
        return outs[0]

    return run


def test_the_discriminator_of_the_model_folder_is_the_original(folder: Path, stage: Callable[[dict], Path]):
    model = stage({})
    generator, discriminator = originals()
    images = 2 * torch.rand(4, 3, 32, 32, generator=torch_stream(0, "images")) - 1
    with torch.no_grad():
        assert torch.equal(trained_discriminator(model)(images), discriminator(images))
        read = build_generator(SVHN)
        read_into(read, model, "seed7/generator")
        z = torch.randn(4, 5, generator=torch_stream(0, "z"))
        assert torch.equal(read(z), generator(z))
    run = read_run(model)
    assert (run["steps"], run["discriminator_rows"], run["released"]) == (0, 4, listing(folder))
    assert (model.parent / "curves.csv").read_text().startswith("step,epoch,")
    with np.load(model.parent / "samples.npz") as samples:
        assert samples["images"].shape[0] == samples["epochs"].shape[0] == 0


def test_only_the_first_of_several_processes_writes(
    tmp_path: Path, folder: Path, stage: Callable[[dict], Path], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    model = stage({})
    assert not (tmp_path / "out").exists()
    monkeypatch.setenv("RANK", "0")
    stage({})
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["curves.csv", "model", "samples.npz", "small"]
    assert read_run(model)["processes"] == 2


def test_a_prefix_of_the_discriminator_is_read_back(folder: Path, stage: Callable[[dict], Path]):
    drop(folder, "discrim", 8)
    network = trained_discriminator(stage({"generator": None}))
    images = 2 * torch.rand(4, 3, 32, 32, generator=torch_stream(0, "images")) - 1
    with torch.no_grad():
        maps = network(images)
        assert torch.equal(maps, originals()[1][:3](images))
    assert maps.shape == (4, 8, 4, 4)


def test_features_need_a_discriminator(folder: Path, stage: Callable[[dict], Path]):
    model = stage({"discriminator": None})
    with pytest.raises(InputError, match=rf"{model}: .* have no discriminator; .*released\.discriminator"):
        trained_discriminator(model)


def test_the_discriminator_of_a_trained_run_is_whole(tmp_path: Path):
    """Such a run records no number of rows."""
    machine = Compute(device="cpu", threads=1, precision="fp32")
    run, networks = run_of(released=None), initial_networks(run_of(), machine, 7)
    tensors = {
        f"seed7/{name}/{key}": tensor
        for name in ("generator", "discriminator")
        for key, tensor in getattr(networks, name).state_dict().items()
    }
    outs = [tmp_path / name for name in ("model", "small", "samples.npz", "curves.csv")]
    train.write(nothing_trained(run, tensors), {"params": dataclasses.asdict(run)}, *outs)
    read = trained_discriminator(outs[0])
    assert len(read) == 4
    pairs = zip(read.parameters(), networks.discriminator.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


# ---- refused --------------------------------------------------------------------------------------------------------


def test_another_listing_than_the_pinned_one(folder: Path):
    refused(rf"{folder}: the 18 arrays have the listing {listing(folder)}, the params pin 0{{64}}", sha256="0" * 64)
    pinned = listing(folder)
    np.save(folder / "200_gen_params.jl_02.npy", np.load(folder / "200_gen_params.jl_02.npy") * 2)
    refused(f"the params pin {pinned}", sha256=pinned)


def test_without_gan_data(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("GAN_DATA", raising=False)
    refused(rf"^{WHERE}\.released: no folder \$GAN_DATA/svhn/arrays \(GAN_DATA is not set\); put .* there")


def test_a_missing_folder(folder: Path):
    refused(rf"no folder \$GAN_DATA/elsewhere \(GAN_DATA is {folder.parents[1]}\)", folder="elsewhere")


@pytest.mark.parametrize(("first", "rows"), [(10, 3), (7, 2)])
def test_an_incomplete_generator(folder: Path, first: int, rows: int):
    """Arrays that end with a whole layer are a prefix, but a generator needs all of its layers."""
    drop(folder, "gen", first)
    refused(rf"{folder}: '\*_gen.*' covers {rows} of the generator's 4 layers")


def test_arrays_of_the_other_network(folder: Path):
    swapped = {"generator": RELEASED.discriminator, "discriminator": RELEASED.generator}
    refused(r"200_gen_params\.jl_01\.npy: expected Convolution weight of layer 1", **swapped)


def test_no_network_named(folder: Path):
    refused(rf"^{WHERE}\.released: names neither generator nor discriminator", generator=None, discriminator=None)


def test_a_pattern_that_nothing_matches(folder: Path):
    refused(r"no file matches 'discrim_\*'", discriminator="discrim_*")


def test_networks_for_digits_and_several_seeds(folder: Path):
    refused("of one network for RGB images: found gan_mnist with seeds", run_of(architecture=GAN_MNIST))
    refused(r"found dcgan_svhn with seeds \[0, 1\]; expected .* one seed", run_of(seeds=[0, 1]))
