"""The network of the Inception score with random weights: wiring, checks of the weight file, the gate.

The network is built once; a forward pass of one image at 299 x 299 takes a tenth of a second on one thread.
"""

import hashlib
import io
import math
import os
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

from pipeline.core import params
from pipeline.core.compute import Compute
from pipeline.core.errors import InputError
from pipeline.core.seeding import numpy_stream, torch_stream
from pipeline.evaluation import inception
from pipeline.evaluation.inception import Inception, check_gate, is_gate_set, load

CPU = Compute(device="cpu", threads=1, precision="fp32")
FILE = "weights.pth"


class Blank(FeatureExtractorInceptionV3):
    """The library's layers, whatever a weight file holds."""

    def load_state_dict(self, state_dict):
        """Keep the initial values."""


def packed(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def state():
    """Random weights of a size that keeps the activations' scale, so that every layer's output is felt at the end."""
    with torch.random.fork_rng():
        network = Blank("random", ["2048"], feature_extractor_weights_path=io.BytesIO(packed({})))
    state = network.state_dict()
    generator = torch_stream(0, "inception weights")
    for name, tensor in state.items():
        if tensor.ndim > 1:
            tensor.normal_(std=math.sqrt(2 / tensor[0].numel()), generator=generator)
        elif name.endswith(("bn.bias", "running_mean")):
            tensor.normal_(std=0.1, generator=generator)
    state["fc.bias"].normal_(std=5, generator=generator)
    return state


@pytest.fixture(scope="module")
def content(state):
    return packed(state)


def settings_for(content):
    return Inception(file=FILE, url=f"https://example.org/{FILE}", sha256=hashlib.sha256(content).hexdigest())


@pytest.fixture(scope="module")
def network(content, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gan_data")
    (folder / "inception").mkdir()
    (folder / "inception" / FILE).write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GAN_DATA", str(folder))
        return load(settings_for(content), CPU)


def images(n=3, height=5, width=4):
    return numpy_stream(0, "inception images").integers(0, 256, (n, height, width, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def judged(network):
    return network.judge(images())


@pytest.fixture
def work(tmp_path, monkeypatch):
    """An empty working directory with a folder GAN_DATA/inception, and without network."""

    def unreachable(url, *args, **kwargs):
        reason = "no route to host"
        raise urllib.error.URLError(reason)

    folder = tmp_path / "work"
    folder.mkdir()
    (tmp_path / "gan_data/inception").mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GAN_DATA", str(tmp_path / "gan_data"))
    monkeypatch.delenv("GAN_SCRATCH", raising=False)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    return folder


def weight_file():
    return Path(os.environ["GAN_DATA"]) / "inception" / FILE


def listing(*folders):
    return {path: path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}


def refusal(settings):
    with pytest.raises(InputError) as caught:
        load(settings, CPU)
    message = str(caught.value)
    assert "\n" not in message
    return message


# Wiring


def test_forms_and_ranges(judged):
    features, probabilities = judged
    assert features.shape == (3, inception.N_FEATURES) == (3, 2048)
    assert probabilities.shape == (3, inception.N_CLASSES) == (3, 1008)
    assert features.dtype == probabilities.dtype == np.float32
    assert features.min() >= 0
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(3), abs=1e-5)
    assert features.std() > 0.05
    assert np.abs(probabilities[0] - probabilities[1]).max() > 1e-3  # random weights, but images are told apart


def test_the_bias_is_omitted(state, judged):
    features, probabilities = judged
    logits = torch.from_numpy(features) @ state["fc.weight"].T
    np.testing.assert_allclose(probabilities, logits.softmax(dim=1).numpy(), rtol=1e-4, atol=1e-7)
    with_bias = (logits + state["fc.bias"]).softmax(dim=1).numpy()
    assert np.abs(probabilities - with_bias).max() > 0.1


def test_images_do_not_depend_on_their_batch(network, judged):
    """Batch norm in evaluation mode."""
    features, probabilities = network.judge(images()[1:2])
    np.testing.assert_allclose(features, judged[0][1:2], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(probabilities, judged[1][1:2], rtol=1e-4, atol=1e-6)


@pytest.fixture
def seen(network):
    """What the first convolution sees."""
    taken = []
    first = network._network.Conv2d_1a_3x3
    hook = first.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0].clone()))
    yield taken
    hook.remove()


def resized_at(image, row, column):
    """TensorFlow 1: pixel i of 299 lies at i H / 299, and the last row and column repeat."""
    height, width = image.shape[:2]
    y, x = row * height / 299, column * width / 299
    top, left = int(y), int(x)
    below, right = min(top + 1, height - 1), min(left + 1, width - 1)
    upper = image[top, left] * (1 - (x - left)) + image[top, right] * (x - left)
    lower = image[below, left] * (1 - (x - left)) + image[below, right] * (x - left)
    return (upper * (1 - (y - top)) + lower * (y - top) - 128) / 128


def test_resized_as_tensorflow_1_does(network, seen):
    given = images(1)
    network.judge(given)
    found = seen[0][0].permute(1, 2, 0).numpy()
    assert found.shape == (299, 299, 3)
    places = [(row, column) for row in (0, 1, 59, 60, 150, 239, 240, 298) for column in (0, 74, 75, 200, 298)]
    expected = [resized_at(given[0].astype(np.float64), *place) for place in places]
    np.testing.assert_allclose([found[place] for place in places], expected, atol=1e-5)
    torchs = torch.from_numpy(given).permute(0, 3, 1, 2).float()
    half_pixels = (F.interpolate(torchs, (299, 299), mode="bilinear", align_corners=False) - 128) / 128
    assert (seen[0] - half_pixels).abs().max() > 0.1


def test_the_red_channel_comes_first(network, seen):
    red = np.zeros((1, 2, 2, 3), dtype=np.uint8)
    red[..., 0] = 255
    network.judge(red)
    assert seen[0][0].mean(dim=(1, 2)).tolist() == pytest.approx([127 / 128, -1, -1])


def test_fp32_even_inside_bf16(network, judged, seen):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features, probabilities = network.judge(images())
    np.testing.assert_array_equal(features, judged[0])
    np.testing.assert_array_equal(probabilities, judged[1])
    assert seen[0].dtype == torch.float32


def test_a_memory_map_read_only(network, judged, tmp_path):
    np.save(tmp_path / "images.npy", images())
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    np.testing.assert_array_equal(network.judge(mapped)[0], judged[0])


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((1, 4, 4, 3), dtype=np.float32),
        np.zeros((1, 4, 4, 1), dtype=np.uint8),
        np.zeros((1, 3, 4, 4), dtype=np.uint8),
        np.zeros((4, 4, 3), dtype=np.uint8),
        np.zeros((0, 4, 4, 3), dtype=np.uint8),
    ],
    ids=["float", "grey", "channels first", "one image", "none"],
)
def test_images_of_another_form(network, bad):
    with pytest.raises(InputError, match=r"expected uint8 \(images, height, width, 3\), RGB, at least one"):
        network.judge(bad)


# The weight file


def serve(monkeypatch, body):
    asked = []

    def urlopen(url, *args, **kwargs):
        asked.append(url)
        return io.BytesIO(body)

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    return asked


@pytest.fixture
def built(monkeypatch):
    """The states from which networks would be built; building takes a second."""
    states = []
    monkeypatch.setattr(inception, "_network", lambda state, path: states.append(state) or torch.nn.Identity())
    return states


SMALL = packed({"fc.bias": torch.arange(3.0)})


def test_downloaded_once(work, monkeypatch, built, tmp_path):
    asked = serve(monkeypatch, SMALL)
    for _ in range(2):
        load(settings_for(SMALL), CPU)
    assert [list(state) for state in built] == [["fc.bias"], ["fc.bias"]]
    assert asked == [f"https://example.org/{FILE}"]
    assert listing(tmp_path) == {work / ".work/inception" / FILE: SMALL}


def test_gan_data_comes_first(work, built):
    weight_file().write_bytes(SMALL)
    cached = work / ".work/inception" / FILE
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"not looked at")
    load(settings_for(SMALL), CPU)
    assert len(built) == 1


@pytest.mark.parametrize("with_folder", [False, True])
def test_neither_there_nor_to_be_downloaded(work, monkeypatch, tmp_path, with_folder):
    if not with_folder:
        monkeypatch.delenv("GAN_DATA")
    found = f"GAN_DATA is {tmp_path / 'gan_data'}" if with_folder else "GAN_DATA is not set"
    assert refusal(settings_for(SMALL)) == (
        f"$GAN_DATA/inception/{FILE} ({found}): not there, and https://example.org/{FILE} could not be downloaded "
        "(no route to host); put the file there and run again"
    )
    assert listing(tmp_path) == {}


@pytest.mark.parametrize("place", ["GAN_DATA", ".work"])
def test_wrong_checksum_of_a_file(work, monkeypatch, built, tmp_path, place):
    """Nothing is read from it, downloaded or replaced."""
    file = weight_file() if place == "GAN_DATA" else work / ".work/inception" / FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(SMALL[:-1])
    asked = serve(monkeypatch, SMALL)
    before = listing(tmp_path)
    settings = settings_for(SMALL)
    message = refusal(settings)
    found = hashlib.sha256(SMALL[:-1]).hexdigest()
    assert f"{file.name}: its sha256 is {found}, params pin {settings.sha256} (score.inception.sha256)" in message
    assert "delete it, to have it downloaded, or put the right one" in message
    assert (asked, built, listing(tmp_path)) == ([], [], before)


def test_wrong_checksum_of_a_download(work, monkeypatch, built, tmp_path):
    serve(monkeypatch, b"sign in to this hotel's network")
    message = refusal(settings_for(SMALL))
    assert message.startswith(f"https://example.org/{FILE}: its sha256 is ")
    assert f"put the right file at $GAN_DATA/inception/{FILE}" in message
    assert (built, listing(tmp_path)) == ([], {})


def test_a_file_that_cannot_be_read(work):
    weight_file().mkdir()
    assert refusal(settings_for(SMALL)).startswith(f"{weight_file()}: cannot be read (Is a directory)")


class Runs:
    """Pickled, it would make a folder when it is loaded."""

    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize("body", [packed({"fc.bias": Runs()}), packed(Runs())], ids=["inside", "alone"])
def test_a_pickled_object_is_refused_even_with_the_right_checksum(work, body):
    weight_file().write_bytes(body)
    assert f"{weight_file()}: cannot be read as tensors only (" in refusal(settings_for(body))
    assert not Path("ran").exists()
    torch.load(io.BytesIO(body), weights_only=False)  # the same bytes, read in the other way
    assert Path("ran").exists()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "cannot be read as tensors only"),
        (b"garbage" * 100, "cannot be read as tensors only"),
        (SMALL[: len(SMALL) // 2], "cannot be read as tensors only"),
        (packed([torch.zeros(2)]), "holds no tensors by name"),
        (packed({"fc.bias": 3}), "holds no tensors by name"),
    ],
    ids=["empty", "garbage", "cut short", "a list", "a number"],
)
def test_files_that_hold_no_weights(work, body, said):
    weight_file().write_bytes(body)
    assert said in refusal(settings_for(body))


def test_weights_of_another_network(work, state):
    """As of torchvision's, with 1,000 classes."""
    other = {name: torch.zeros(2) if name == "fc.bias" else tensor for name, tensor in state.items()}
    with pytest.raises(InputError, match=r"does not hold this network \(Error.s. in loading state_dict"):
        inception._network(other, Path("weights.pth"))
    del other["fc.bias"]
    with pytest.raises(InputError, match=r"weights\.pth: does not hold this network"):
        inception._network(other, Path("weights.pth"))


def test_settings(tmp_path):
    """The library's own address fits; its name carries the first digits of the checksum."""
    name = URL_INCEPTION_V3.rpartition("/")[2]
    sha256 = "6726825d" + "0" * 56
    file = tmp_path / "params.yaml"
    text = "inception: {{file: {}, url: '{}', sha256: {}}}\n"
    file.write_text(text.format(name, URL_INCEPTION_V3, sha256))
    assert params.load(file, Inception, own="inception") == Inception(file=name, url=URL_INCEPTION_V3, sha256=sha256)
    for bad in ("../weights.pth", "a/weights.pth", "..", "''"):
        file.write_text(text.format(bad, URL_INCEPTION_V3, sha256))
        with pytest.raises(InputError, match="file must be the name of a file in the folder inception"):
            params.load(file, Inception, own="inception")
    file.write_text(text.format(name, URL_INCEPTION_V3, sha256[:8]))
    with pytest.raises(InputError, match="sha256"):
        params.load(file, Inception, own="inception")


# The gate


@pytest.mark.parametrize("score", [11.24, 11.2368, 11.2201, 11.2599])
def test_gate_passed(score):
    check_gate(score)


@pytest.mark.parametrize("score", [11.2199, 11.2601, 9.7, 11.5, 0.0, math.nan, math.inf])
def test_gate_missed(score):
    with pytest.raises(InputError, match=rf"score {score:.4f}; expected 11\.24 within 0\.02 .*no other score can be"):
        check_gate(score)


def test_the_set_of_the_gate(monkeypatch):
    """In whatever order, but every image, each once, and in RGB."""
    few = numpy_stream(0, "gate").integers(0, 256, (20, 32, 32, 3)).astype(np.uint8)
    monkeypatch.setattr(inception, "GATE_SHAPE", few.shape)
    each = sorted(hashlib.sha256(image.tobytes()).digest() for image in few)
    monkeypatch.setattr(inception, "GATE_SET", hashlib.sha256(b"".join(each)).hexdigest())
    assert is_gate_set(few)
    assert is_gate_set(few[::-1])
    assert not is_gate_set(few[..., ::-1])
    assert not is_gate_set(few[:-1])
    assert not is_gate_set(few.astype(np.float32))
    twice = few.copy()
    twice[3] = few[4]
    assert not is_gate_set(twice)


def test_50000_images_that_are_not_cifar10():
    assert not is_gate_set(np.zeros((50_000, 32, 32, 3), dtype=np.uint8))


@pytest.mark.real_data
def test_the_set_of_the_gate_is_cifar10():
    from torchvision.datasets import CIFAR10

    folder = Path(os.environ["GAN_DATA"])
    if not (folder / CIFAR10.base_folder).is_dir():
        pytest.skip(f"no {CIFAR10.base_folder} under GAN_DATA")
    train = CIFAR10(str(folder), train=True)
    assert train._check_integrity()
    assert is_gate_set(train.data)
    assert not is_gate_set(CIFAR10(str(folder), train=False).data)
