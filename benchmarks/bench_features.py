"""Features of the paper's ImageNet discriminator (28,672 an image): the whole extraction beside its bare convolutions.

The peer is what a user would write: the network in fp32, pooled and collected in memory. Beside it, how much of the
machine's bf16 matrix-product peak the extraction reaches.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.core.compute import Compute, precision_in_force, set_up
from pipeline.core.seeding import numpy_stream, torch_stream
from pipeline.core.store import ImageSet
from pipeline.evaluation.features import (
    Features,
    batch_statistics,
    extract,
    features_of,
    map_rows,
    with_fixed_statistics,
)
from pipeline.models.dcgan import discriminator_32, to_signed
from pipeline.models.layers import Convolution, initialise

COMPUTE = Compute(device="cpu", threads=2, precision="auto")
CONFIG = Features(dtype="float16", batch_size=64, statistics_batch_size=128)
ROUNDS = 3
IMAGES = 1024
MATRIX = 2048


def seconds_of(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Median of some rounds, after one that chooses kernels."""
    work()
    taken = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def macs(rows: nn.Sequential) -> int:
    """Multiplications of the convolutions, an image of 32 x 32."""
    total, side = 0, 32
    for row in rows:
        convolution = next(row.children())
        assert isinstance(convolution, Convolution)
        side //= convolution.stride
        total += convolution.weight.numel() * side * side
    return total


class Plain(nn.Module):
    """The six convolutions in fp32 with running statistics, as a user would write them."""

    def __init__(self) -> None:
        super().__init__()
        widths = [3, 128, 128, 256, 256, 512, 512]
        layers = []
        for number, (n_in, n_out) in enumerate(pairwise(widths)):
            norm = [nn.BatchNorm2d(n_out)] if number else []
            convolution = nn.Conv2d(n_in, n_out, 3, stride=1 + number % 2, padding=1, bias=False)
            layers.append(nn.Sequential(convolution, *norm, nn.LeakyReLU(0.2)))
        self.layers = nn.ModuleList(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, 32, 32) -> (B, 28672)."""
        pooled = []
        for layer in self.layers:
            x = layer(x)
            pooled.append(F.max_pool2d(x, x.shape[2] // 4).flatten(1))
        return torch.cat(pooled, dim=1)


def plain(images: np.ndarray, network: Plain) -> list[np.ndarray]:
    """All features, in memory."""
    found = []
    with torch.inference_mode():
        for start in range(0, len(images), CONFIG.batch_size):
            x = torch.from_numpy(images[start : start + CONFIG.batch_size]).permute(0, 3, 1, 2).float() / 127.5 - 1
            found.append(network(x.contiguous()).numpy())
    return found


def main() -> None:
    set_up(COMPUTE)
    images = numpy_stream(0, "benchmark").integers(0, 256, (IMAGES, 32, 32, 3), dtype=np.uint8)
    index = pd.DataFrame({"key": [str(n) for n in range(IMAGES)], "split": "train", "label": 0, "source": ""})
    image_set = ImageSet(path=Path("made"), images=images, index=index)
    network = discriminator_32()
    initialise(network, 0.02, torch_stream(0, "benchmark"))
    moments = batch_statistics(network, image_set, np.arange(256), batch_size=128, compute=COMPUTE)
    dtype = torch.bfloat16 if precision_in_force(COMPUTE) == "bf16" else torch.float32
    fixed = with_fixed_statistics(network, moments, dtype)
    x = to_signed(images[: CONFIG.batch_size]).to(dtype)
    a, b = torch.randn(2, MATRIX, MATRIX).to(dtype).unbind()

    def whole() -> None:
        with tempfile.TemporaryDirectory() as folder:  # a new one: work that is found done would be skipped
            place = Path(folder)
            out = place / "features"
            extract(network, moments, image_set, ["train"], out, config=CONFIG, compute=COMPUTE, scratch=place)

    with torch.inference_mode():
        peak = 2 * MATRIX**3 / seconds_of(lambda: a @ b, 9)
        network_alone = CONFIG.batch_size / seconds_of(lambda: features_of(fixed, x), 9)
        ours = IMAGES / seconds_of(whole)
        network_of_a_user = Plain().eval()
        theirs = IMAGES / seconds_of(lambda: plain(images, network_of_a_user))
    flops = 2 * macs(map_rows(network))
    print(
        f"features, D of 32 x 32 at 128 filters, 28,672 an image, {COMPUTE.threads} threads: ours "
        f"({precision_in_force(COMPUTE)}, written to disk) {ours:,.0f} images/s = {ours * flops / peak:.0%} of the "
        f"matrix-product peak of {peak / 1e9:,.0f} GFLOP/s, {ours / network_alone:.0%} of the network alone; plain "
        f"fp32 PyTorch {theirs:,.0f} images/s, ratio {ours / theirs:.2f}"
    )


if __name__ == "__main__":
    main()
