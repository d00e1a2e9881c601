"""Building blocks of the networks: no biases anywhere, batch norm by the statistics of the batch at hand."""

import torch
import torch.nn.functional as F
from torch import nn

# oneDNN's bf16 kernels run at less than half their speed on channel counts that are no multiple of this.
ALIGNED_CHANNELS = 16
REDUCED_PRECISION = (torch.bfloat16, torch.float16)


class BatchNorm(nn.Module):
    """Normalise each channel or unit by mean and biased variance of this batch: no gain, no shift, no running average.

    DCGAN's MNIST networks did better without gain and shift (paper, appendix); no DCGAN network keeps running
    statistics. ``eps`` is the authors' 1e-8; bf16 activations need 1e-5.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C) or (B, C, H, W) -> the same shape; sums are taken in fp32 whatever the dtype."""
        eps = 1e-5 if x.dtype in REDUCED_PRECISION else 1e-8
        return F.batch_norm(x, None, None, training=True, eps=eps)


class Linear(nn.Module):
    """Matrix product without bias."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_out, n_in))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, n_in) -> (B, n_out)."""
        return F.linear(x, self.weight)


class Down(nn.Module):
    """Convolution k5 s2 p2 without bias: half the side."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_out, n_in, 5, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, n_in, H, W) -> (B, n_out, H/2, W/2); more than n_in channels must be zeros (see ``beside``)."""
        spare = x.shape[1] - self.weight.shape[1]
        return F.conv2d(x, F.pad(self.weight, (0, 0, 0, 0, 0, spare)), stride=2, padding=2)


class Up(nn.Module):
    """Fractionally strided convolution k5 s2 without bias: exactly twice the side."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_in, n_out, 5, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, n_in, H, W) -> (B, n_out, 2H, 2W); more than n_in channels must be zeros (see ``beside``)."""
        spare = x.shape[1] - self.weight.shape[0]
        weight = F.pad(self.weight, (0, 0, 0, 0, 0, 0, 0, spare))
        return F.conv_transpose2d(x, weight, stride=2, padding=2, output_padding=1)


class Reshape(nn.Module):
    """(B, C * H * W) -> (B, C, H, W), channels_last."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Reshape all but the batch."""
        return x.view(-1, *self.shape).contiguous(memory_format=torch.channels_last)


class Flatten(nn.Module):
    """(B, C, H, W) -> (B, C * H * W), channel by channel."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Flatten all but the batch."""
        return x.flatten(1)


def beside(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Concatenate one-hot labels to units, or as constant planes to feature maps.

    x (B, C) or (B, C, H, W), y (B, K) -> (B, C + K) or (B, C + K, H, W). Feature maps in reduced precision get planes
    of zeros up to a multiple of 16 channels, which change no result and double the speed of the convolution after them.
    """
    y = y.to(x.dtype)
    if x.dim() == 2:
        return torch.cat([x, y], dim=1)
    if x.dtype in REDUCED_PRECISION:
        y = F.pad(y, (0, -(x.shape[1] + y.shape[1]) % ALIGNED_CHANNELS))
    rows = x.permute(0, 2, 3, 1)  # the memory order of channels_last: the concatenation is one copy
    planes = y[:, None, None, :].expand(*rows.shape[:3], y.shape[1])
    return torch.cat([rows, planes], dim=3).permute(0, 3, 1, 2)


def initialise(network: nn.Module, std: float, generator: torch.Generator) -> None:
    """Draw every weight from N(0, std^2), in the order of the parameters (DCGAN section 4: std 0.02)."""
    with torch.no_grad():
        for weight in network.parameters():
            weight.normal_(0.0, std, generator=generator)
