"""The network of the Inception score: TensorFlow's Inception v3 of 2015-12-05, as torch-fidelity rebuilds it.

The score of another network is another quantity: torchvision's weights give about 9.7 on CIFAR-10's training images
where the paper has 11.24. So the weights are pinned by checksum, and :func:`check_gate` refuses to go on where the
paper's number on real images does not come out.
"""

import hashlib
import io
import pickle
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from annotated_types import Len

from pipeline.core.compute import Compute
from pipeline.core.errors import InputError
from pipeline.core.files import whole_file
from pipeline.core.gan_data import data_folder
from pipeline.core.params import section
from pipeline.core.scratch import scratch_root
from pipeline.datasets.sources import download

if TYPE_CHECKING:
    import torch
    from torch import nn

FOLDER = "inception"  # below GAN_DATA, and below .work for what was downloaded
N_FEATURES, N_CLASSES = 2048, 1008
LAYERS = ("2048", "logits_unbiased")  # torch-fidelity's names: pool3; the logits without the bias

GATE_MEAN, GATE_TOLERANCE = 11.24, 0.02  # Improved GAN, table 3, "Real data"; torch-fidelity states 11.2368
GATE_SHAPE = (50_000, 32, 32, 3)
# sha256 of the sorted sha256s of the images' bytes (H x W x RGB): CIFAR-10's training images in whatever order
GATE_SET = "6bebf6967ad9d2d12d9cf95f54164bd95a0954d3177f1285fa8dd3673671ca76"


@section
class Inception:
    """``score.inception``: the weight file, looked for as ``$GAN_DATA/inception/FILE``, else downloaded.

    Attributes
    ----------
    file : its name
    url : where it is downloaded from
    sha256 : of its whole content
    """

    file: str
    url: str
    sha256: Annotated[str, Len(64, 64)]

    def __post_init__(self) -> None:
        if self.file != Path(self.file).name or self.file in ("", ".."):
            message = f"file must be the name of a file in the folder {FOLDER}, found '{self.file}'"
            raise ValueError(message)


class InceptionNetwork:
    """Inception v3 in evaluation mode, in fp32 whatever ``compute.precision`` says.

    Published scores are computed in fp32; bf16, with 8 bits of mantissa, changes the third digit of probabilities, and
    the gate asks for the score to 0.02.
    """

    def __init__(self, network: "nn.Module", device: str) -> None:
        import torch

        network.to(device=device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self._network = network.eval().requires_grad_(False)
        self._device = device

    def judge(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Features and class probabilities of one batch; an image's do not depend on the others beyond rounding.

        The network resizes to 299 x 299 as TensorFlow 1 does (bilinear, pixel i at i H / 299, corners not aligned) and
        takes (x - 128) / 128. The bias of the last layer is left out, as in the authors' code: with it CIFAR-10's test
        images score about 0.3 higher.

        Parameters
        ----------
        images : uint8 (B, H, W, 3), RGB, of any size

        Returns
        -------
        features : float32 (B, 2048), 0 or above: the pooled layer before the classes (``pool3``)
        probabilities : float32 (B, 1008), each row summing to 1

        Raises
        ------
        InputError
            If the images are of another form.
        """
        import torch

        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or not images.size:
            message = (
                f"inception: images are {images.dtype} of shape {images.shape}; expected uint8 (images, height, "
                "width, 3), RGB, at least one; convert them first"
            )
            raise InputError(message)
        pixels = torch.from_numpy(np.array(images)).to(self._device).permute(0, 3, 1, 2)
        with torch.inference_mode(), torch.autocast(self._device, enabled=False):
            features, logits = self._network(pixels)
            probabilities = logits.softmax(dim=1)
        return features.cpu().numpy(), probabilities.cpu().numpy()


def load(settings: Inception, compute: Compute) -> InceptionNetwork:
    """The network with the pinned weights.

    They are read from ``$GAN_DATA/inception/FILE`` or, if it is not there, from an earlier download below ``.work``;
    else they are downloaded to there. A file that is there is never replaced.

    Raises
    ------
    InputError
        If the file is neither there nor can be downloaded, has another checksum, or does not hold this network.
    """
    path, content = _found(settings) or _downloaded(settings)
    return InceptionNetwork(_network(_state(content, path), path), compute.device)


def check_gate(score: float) -> None:
    """Refuse to report any score where the network misses the paper's number on CIFAR-10's training images.

    Parameters
    ----------
    score : mean over 10 splits of ``scores.class_score`` on images for which :func:`is_gate_set` holds

    Raises
    ------
    InputError
        If it is not 11.24 within 0.02.
    """
    if not abs(score - GATE_MEAN) <= GATE_TOLERANCE:  # so that NaN misses too
        message = (
            f"inception: CIFAR-10's training images score {score:.4f}; expected {GATE_MEAN} within {GATE_TOLERANCE} "
            "(Improved GAN, table 3), so no other score can be trusted; look at the weight file and at the images "
            "(RGB, 0 to 255)"
        )
        raise InputError(message)


def is_gate_set(images: np.ndarray) -> bool:
    """Whether these are the 50,000 training images of the real CIFAR-10, in whatever order; may be a memory map."""
    if images.dtype != np.uint8 or images.shape != GATE_SHAPE:
        return False
    return _digest(images) == GATE_SET


def _digest(images: np.ndarray) -> str:
    each = sorted(hashlib.sha256(image.tobytes()).digest() for image in images)
    return hashlib.sha256(b"".join(each)).hexdigest()


# The weight file. It is a pickle: the checksum comes first, and then it is read as tensors only.


def _found(settings: Inception) -> tuple[Path, bytes] | None:
    """(path, content) of the file below GAN_DATA or .work, or None."""
    folders = [folder / FOLDER for folder in (data_folder(), scratch_root()) if folder is not None]
    for path in (folder / settings.file for folder in folders):
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            message = f"{path}: cannot be read ({error.strerror}); see to its permissions and its disk"
            raise InputError(message) from error
        _check_sha256(str(path), content, settings.sha256, "delete it, to have it downloaded, or put the right one")
        return path, content
    return None


def _downloaded(settings: Inception) -> tuple[Path, bytes]:
    """(path, content) of the file, kept below .work once its checksum is right."""
    folder = data_folder()
    found = "GAN_DATA is not set" if folder is None else f"GAN_DATA is {folder}"
    received = download(settings.url, belongs=f"$GAN_DATA/{FOLDER}/{settings.file} ({found})")
    try:
        content = received.read_bytes()
    finally:
        received.unlink()
    _check_sha256(settings.url, content, settings.sha256, f"put the right file at $GAN_DATA/{FOLDER}/{settings.file}")
    path = scratch_root() / FOLDER / settings.file
    with whole_file(path) as partial:
        partial.write_bytes(content)
    return path, content


def _check_sha256(where: str, content: bytes, expected: str, what_to_do: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        message = (
            f"{where}: its sha256 is {found}, params pin {expected} (score.inception.sha256): not the paper's network; "
            f"{what_to_do}"
        )
        raise InputError(message)


def _state(content: bytes, path: Path) -> "dict[str, torch.Tensor]":
    """The tensors by name; ``weights_only`` builds tensors and plain containers and calls nothing that a file names."""
    import torch

    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, zipfile.BadZipFile) as error:
        message = (
            f"{path}: cannot be read as tensors only ({_first_line(error)}); expected torch-fidelity's weight file"
        )
        raise InputError(message) from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        message = f"{path}: holds no tensors by name; expected torch-fidelity's weight file"
        raise InputError(message)
    return state


def _network(state: "dict[str, torch.Tensor]", path: Path) -> "nn.Module":
    """torch-fidelity's network with these weights.

    Its constructor insists on unpickling a weight file: it gets a buffer that was written here, of the tensors alone.
    """
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    buffer.seek(0)
    try:
        return FeatureExtractorInceptionV3(
            "inception-v3-compat", list(LAYERS), feature_extractor_weights_path=buffer, verbose=False
        )
    except RuntimeError as error:  # missing, unknown or misshapen tensors
        message = f"{path}: does not hold this network ({_first_line(error)}); expected torch-fidelity's weight file"
        raise InputError(message) from error


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(" :.") if lines else type(error).__name__
