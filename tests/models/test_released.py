"""Released arrays: networks of ours written in the authors' layout come back; everything else is refused by name."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.core.errors import InputError
from pipeline.core.seeding import torch_stream
from pipeline.models import dcgan
from pipeline.models.layers import Convolution, Deconvolution, Linear, initialise
from pipeline.models.released import load_released

NETWORKS = [
    "generator_64",
    "discriminator_64",
    "generator_32",
    "discriminator_32",
    "generator_svhn",
    "discriminator_svhn",
]
N_ARRAYS = {"generator_64": 13, "discriminator_64": 11, "generator_32": 19, "discriminator_32": 17,
            "generator_svhn": 10, "discriminator_svhn": 8}  # fmt: skip


def network(name: str, seed: int = 0) -> nn.Sequential:
    sizes = {"n": 2} | ({"z_dim": 5} if name.startswith("generator") else {})
    built = getattr(dcgan, name)(**sizes)
    initialise(built, 0.2, torch_stream(seed, name))
    with torch.no_grad():
        for key, parameter in built.named_parameters():
            if key.endswith("shift"):
                parameter.normal_(0, 0.2, generator=torch_stream(seed, key))
    return built


def output(built: nn.Sequential, name: str) -> torch.Tensor:
    side = 64 if name.endswith("64") else 32
    shape = (4, 5) if name.startswith("generator") else (4, 3, side, side)
    with torch.no_grad():
        return built(2 * torch.rand(shape, generator=torch_stream(1, "input")) - 1)


def released_layout(built: nn.Sequential, *, rotate: bool = True) -> list[np.ndarray]:
    """w, gain, shift per layer; kernels of true convolutions; linear (in, out)."""
    arrays = []
    for part in built.modules():
        for _, parameter in part.named_parameters(recurse=False):
            values = parameter.detach().numpy()
            if isinstance(part, (Convolution, Deconvolution)):
                values = values[:, :, ::-1, ::-1] if rotate else values
            elif isinstance(part, Linear):
                values = values.T
            arrays.append(np.ascontiguousarray(values))
    return arrays


def write(folder: Path, arrays: list[np.ndarray], name: str = "30_discrim_params.jl_{:02d}.npy") -> Path:
    folder.mkdir(exist_ok=True)
    for place, array in enumerate(arrays, start=1):
        np.save(folder / name.format(place), array)
    return folder


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_in_the_released_layout_comes_back(tmp_path: Path, name: str):
    original, other = network(name), network(name, seed=1)
    arrays = released_layout(original)
    assert len(arrays) == N_ARRAYS[name], "the number of released arrays"
    assert not torch.allclose(output(other, name), output(original, name), rtol=0.1)
    loaded = load_released(other, write(tmp_path / "arrays", arrays))
    assert len(loaded) == len(original)
    assert torch.equal(output(loaded, name), output(original, name))
    assert torch.equal(output(other, name), output(original, name)), "the network itself was filled"


@pytest.mark.parametrize("name", NETWORKS)
def test_kernels_that_are_not_turned_give_another_network(tmp_path: Path, name: str):
    original = network(name)
    folder = write(tmp_path / "arrays", released_layout(original, rotate=False))
    loaded = load_released(network(name, seed=1), folder)
    assert ((output(loaded, name) - output(original, name)).norm() / output(original, name).norm()) > 0.05


def test_layouts_by_hand(tmp_path: Path):
    """Place (u, v) of a kernel in the file is place (k - 1 - u, k - 1 - v) of ours; linear is transposed."""
    name = "generator_svhn"
    arrays = released_layout(network(name))
    for place, array in enumerate(arrays):
        array[...] = np.arange(array.size).reshape(array.shape) + 1000 * place
    loaded = load_released(network(name), write(tmp_path / "arrays", arrays))
    linear, first_gain, first_shift, deconvolution = list(loaded.parameters())[:4]
    assert linear[7, 2] == arrays[0][2, 7]
    assert first_gain[3] == arrays[1][3]
    assert first_shift[3] == arrays[2][3]
    assert deconvolution.shape == (8, 4, 5, 5)
    assert deconvolution[6, 1, 0, 3] == arrays[3][6, 1, 4, 1]


@pytest.mark.parametrize("pattern", ["params_{}.npy", "{}.npy", "30_x.jl_{:02d}.npy", "w{:04d}.npy"])
@pytest.mark.parametrize("first", [0, 1])
def test_order_is_that_of_the_last_number(tmp_path: Path, pattern: str, first: int):
    """Not that of the text, in which 10 comes before 2."""
    original = network("discriminator_32")
    for place, array in enumerate(released_layout(original), start=first):
        np.save(tmp_path / pattern.format(place), array)
    loaded = load_released(network("discriminator_32", seed=1), tmp_path)
    assert torch.equal(output(loaded, "discriminator_32"), output(original, "discriminator_32"))


def test_both_networks_in_one_folder(tmp_path: Path):
    """As the authors keep them; the files beside the arrays are ignored."""
    (tmp_path / "30_discrim_params.jl").write_bytes(b"\x80\x02")
    for kind, name in (("discrim", "discriminator_svhn"), ("gen", "generator_svhn")):
        write(tmp_path, released_layout(network(name)), f"30_{kind}_params.jl_{{:02d}}.npy")
    with pytest.raises(InputError, match=r"30_discrim.*_01\.npy and 30_gen.*_01\.npy both claim place 1"):
        load_released(network("discriminator_svhn"), tmp_path)
    for kind, name in (("discrim", "discriminator_svhn"), ("gen", "generator_svhn")):
        loaded = load_released(network(name, seed=1), tmp_path, f"*_{kind}_params.jl_*.npy")
        assert torch.equal(output(loaded, name), output(network(name), name))


@pytest.mark.parametrize(("n_arrays", "n_rows"), [(1, 1), (4, 2), (7, 3), (10, 4), (16, 6), (17, 7)])
def test_a_prefix_of_the_layers(tmp_path: Path, n_arrays: int, n_rows: int):
    """The ImageNet discriminator has a layer without batch norm, five with, and the logit."""
    original, other = network("discriminator_32"), network("discriminator_32", seed=1)
    rest = [parameter.detach().clone() for parameter in other.parameters()][n_arrays:]
    loaded = load_released(other, write(tmp_path, released_layout(original)[:n_arrays]))
    assert len(loaded) == n_rows
    assert torch.equal(output(loaded, "discriminator_32"), output(original[:n_rows], "discriminator_32"))
    assert all(torch.equal(now, then) for now, then in zip([*other.parameters()][n_arrays:], rest, strict=True))


# ---- refused --------------------------------------------------------------------------------------------------------


def svhn(folder: Path) -> list[np.ndarray]:
    arrays = released_layout(network("discriminator_svhn"))
    write(folder, arrays, "p_{:02d}.npy")
    return arrays


def refused(folder: Path, match: str, name: str = "discriminator_svhn") -> None:
    """Refused, and the network is as it was."""
    target = network(name, seed=1)
    before = [parameter.detach().clone() for parameter in target.parameters()]
    with pytest.raises(InputError, match=match):
        load_released(target, folder)
    assert all(torch.equal(now, then) for now, then in zip(target.parameters(), before, strict=True))


@pytest.mark.parametrize(("n_arrays", "what"), [(2, "AffineBatchNorm gain of layer 2"),
                                                (3, "AffineBatchNorm shift of layer 2"),
                                                (6, "AffineBatchNorm shift of layer 3")])  # fmt: skip
def test_a_prefix_that_ends_within_a_layer(tmp_path: Path, n_arrays: int, what: str):
    write(tmp_path, released_layout(network("discriminator_svhn"))[:n_arrays], "p_{:02d}.npy")
    refused(tmp_path, rf"after p_0{n_arrays}\.npy, the {what} is missing")


def test_a_wrong_shape_names_file_found_and_expected(tmp_path: Path):
    arrays = svhn(tmp_path)
    np.save(tmp_path / "p_05.npy", arrays[4][:, :, 1:, 1:])
    refused(
        tmp_path, r"p_05\.npy: expected Convolution weight of layer 3, .* 8 x 4 x 5 x 5, found float32 .* 8 x 4 x 4 x 4"
    )
    np.save(tmp_path / "p_05.npy", np.float32(1))
    refused(tmp_path, r"p_05\.npy: .* found float32 of shape \(\)")


def test_a_wrong_order(tmp_path: Path):
    """The gain before the weights; another network's arrays; layers swapped."""
    arrays = svhn(tmp_path)
    write(tmp_path, [arrays[0], arrays[2], arrays[1], *arrays[3:]], "p_{:02d}.npy")
    refused(tmp_path, r"p_02\.npy: expected Convolution weight of layer 2, .* 4 x 2 x 5 x 5, found float32 of shape 4;")
    write(tmp_path, arrays, "p_{:02d}.npy")
    refused(tmp_path, r"p_01\.npy: expected Linear weight of layer 1, .* 5 x 128, found", name="generator_svhn")
    write(tmp_path, [arrays[0], *arrays[4:7], *arrays[1:4], arrays[7]], "p_{:02d}.npy")
    refused(tmp_path, r"p_02\.npy: expected .* 4 x 2 x 5 x 5, found .* 8 x 4 x 5 x 5")


def test_a_missing_array(tmp_path: Path):
    svhn(tmp_path)
    (tmp_path / "p_03.npy").unlink()
    refused(tmp_path, r"array 3 is missing, the next is p_04\.npy")
    (tmp_path / "p_01.npy").unlink()
    (tmp_path / "p_02.npy").unlink()
    refused(tmp_path, r"array 1 is missing, the next is p_04\.npy")


def test_too_many_arrays(tmp_path: Path):
    svhn(tmp_path)
    np.save(tmp_path / "p_09.npy", np.zeros(3, dtype=np.float32))
    refused(tmp_path, "9 arrays match .*, this network has 8 parameters")


def test_names_without_or_with_the_same_number(tmp_path: Path):
    svhn(tmp_path)
    shutil.copy(tmp_path / "p_02.npy", tmp_path / "p_002.npy")
    refused(tmp_path, r"p_002\.npy and p_02\.npy both claim place 2")
    (tmp_path / "p_002.npy").rename(tmp_path / "weights.npy")
    refused(tmp_path, r"weights\.npy: no number in the name")


def test_an_empty_or_missing_folder(tmp_path: Path):
    refused(tmp_path, r"no file matches '\*\.npy'")
    refused(tmp_path / "nowhere", r"nowhere: no file matches '\*\.npy'")


def test_pickled_objects_are_not_opened(tmp_path: Path):
    svhn(tmp_path)
    np.save(tmp_path / "p_02.npy", np.array([{"a": 1}], dtype=object))
    refused(tmp_path, r"p_02\.npy: not a whole NumPy array without pickled objects")


@pytest.mark.parametrize("content", [b"", b"\x93NUM", b"version https://git-lfs.github.com/spec/v1\n"])
def test_a_file_that_is_no_array(tmp_path: Path, content: bytes):
    svhn(tmp_path)
    (tmp_path / "p_02.npy").write_bytes(content)
    refused(tmp_path, r"p_02\.npy: not a whole NumPy array")


def test_a_truncated_array(tmp_path: Path):
    svhn(tmp_path)
    path = tmp_path / "p_02.npy"
    path.write_bytes(path.read_bytes()[:-7])
    refused(tmp_path, r"p_02\.npy: not a whole NumPy array")


def test_integers_and_nan_are_refused_and_doubles_are_rounded(tmp_path: Path):
    arrays = svhn(tmp_path)
    np.save(tmp_path / "p_03.npy", arrays[2].astype(np.int64))
    refused(tmp_path, r"p_03\.npy: .* floating-point numbers of shape 4, found int64 of shape 4")
    bad = arrays[2].copy()
    bad[1] = np.nan
    np.save(tmp_path / "p_03.npy", bad)
    refused(tmp_path, r"p_03\.npy: 1 values are not finite")
    np.save(tmp_path / "p_03.npy", arrays[2].astype(np.float64))
    loaded = load_released(network("discriminator_svhn", seed=1), tmp_path)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    assert torch.equal(
        output(loaded, "discriminator_svhn"), output(network("discriminator_svhn"), "discriminator_svhn")
    )
