"""The classifier of a labelled set of 32 x 32 RGB images that generated images of that set are scored with.

Ours, the paper has none: it stands in for the Inception network where that cannot be had, and its numbers are never
those of that network. A small residual network; batch norm keeps running averages, which images are judged with, so
that a judgement depends on no other image.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.core.errors import InputError
from pipeline.models.dcgan import to_signed
from pipeline.models.layers import GlobalAverage
from pipeline.models.store import RUN_FILE, read_into, read_run

SIDE, CHANNELS = 32, 3  # of the images


class Judged(NamedTuple):
    """What the classifier says of a batch.

    Attributes
    ----------
    features : fp32 (B, 8 * width), each >= 0: the mean over places of the last maps
    logits : fp32 (B, n_classes)
    """

    features: torch.Tensor
    logits: torch.Tensor


class Convolved(nn.Sequential):
    """Convolution k3 p1 without bias, batch norm, ReLU."""

    def __init__(self, n_in: int, n_out: int, *, stride: int = 1) -> None:
        convolution = nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1, bias=False)
        super().__init__(convolution, nn.BatchNorm2d(n_out), nn.ReLU())


class Residual(nn.Module):
    """x + two convolutions of x."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.rows = nn.Sequential(Convolved(n, n), Convolved(n, n))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, n, H, W) -> the same shape."""
        return x + self.rows(x)


class ClassifierNetwork(nn.Module):
    """Images (B, 3, 32, 32) in [-1, 1] -> features and logits, in one pass.

    Parameters
    ----------
    width : maps of the first layer
    """

    def __init__(self, width: int, n_classes: int) -> None:
        super().__init__()
        self.maps = nn.Sequential(
            Convolved(CHANNELS, width),  # w x 32 x 32
            Convolved(width, 2 * width, stride=2),  # 2w x 16 x 16
            Residual(2 * width),  # 2w x 16 x 16
            Convolved(2 * width, 4 * width, stride=2),  # 4w x 8 x 8
            Convolved(4 * width, 8 * width, stride=2),  # 8w x 4 x 4
            Residual(8 * width),  # 8w x 4 x 4
        )
        self.average = GlobalAverage()
        self.output = nn.Linear(8 * width, n_classes)

    def forward(self, x: torch.Tensor) -> Judged:
        """Features and logits are fp32 under autocast, too: probabilities are computed from them."""
        features = self.average(self.maps(x))
        with torch.autocast(x.device.type, enabled=False):
            return Judged(features, self.output(features))


def initialise_classifier(network: ClassifierNetwork, stream: torch.Generator) -> None:
    """Weights of convolutions from N(0, 2 / (9 n_in)), which keeps the variance through ReLUs (He et al. 2015).

    Those of the output from N(0, 1 / n_in), its bias 0; batch norm begins with gain 1 and shift 0.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=stream)
        elif isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="linear", generator=stream)
            nn.init.zeros_(layer.bias)


class Classifier:
    """A classifier that judges images, by batch norm's running averages.

    Attributes
    ----------
    accuracy_percent, n_test : on the test images of its set, and how many they are
    n_features, n_classes : of what :meth:`judge` gives
    """

    def __init__(self, network: ClassifierNetwork, record: dict[str, Any], context: torch.autocast) -> None:
        self.network, self._context = network.eval(), context
        self.accuracy_percent, self.n_test = float(record["test_accuracy_percent"]), int(record["n_test"])
        self.n_classes, self.n_features = network.output.weight.shape

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the images that it takes."""
        return SIDE, SIDE, CHANNELS

    @torch.inference_mode()
    def judge(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 (B, 32, 32, 3) -> float32 features (B, n_features), float32 p(y|x) (B, n_classes)."""
        x = to_signed(images, str(self.network.output.weight.device))
        with self._context:
            features, logits = self.network(x)
        return features.cpu().numpy(), F.softmax(logits, dim=1).cpu().numpy()


def read_classifier(model: Path, device: str, context: torch.autocast) -> Classifier:
    """The classifier of a model folder.

    Raises
    ------
    InputError
        If the folder is missing, damaged, or another kind of model's.
    """
    record = read_run(model)
    try:
        width, seed = record["params"]["width"], record["params"]["seed"]
        classifier = Classifier(ClassifierNetwork(width, record["n_classes"]), record, context)
    except (KeyError, TypeError, ValueError) as error:
        message = f"{model}/{RUN_FILE}: not the record of a classifier; name a model that the stage classifier has made"
        raise InputError(message) from error
    read_into(classifier.network, model, f"seed{seed}/classifier")
    classifier.network.to(device=device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return classifier
