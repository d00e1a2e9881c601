"""Building blocks of the networks: no biases but batch norm's shift, batch norm by the statistics of this batch."""

import torch
import torch.distributed as dist
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
        return normalised(x)


def normalised(x: torch.Tensor, gain: torch.Tensor | None = None, shift: torch.Tensor | None = None) -> torch.Tensor:
    """(B, C) or (B, C, H, W) by mean and biased variance of this batch, per channel; sums are taken in fp32.

    Processes on GPUs share their statistics; on CPUs, where PyTorch cannot, each has those of its part of the batch.
    """
    if x.is_cuda and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        shared = nn.SyncBatchNorm(x.shape[1], eps=batch_norm_eps(x.dtype), affine=False, track_running_stats=False)
        y = shared.to(x.device)(x)
        if gain is None or shift is None:
            return y
        places = (1, -1, *[1] * (x.dim() - 2))
        return (y * gain.view(places) + shift.view(places)).to(x.dtype)
    return F.batch_norm(x, None, None, gain, shift, training=True, eps=batch_norm_eps(x.dtype))


def batch_norm_eps(dtype: torch.dtype) -> float:
    """What is added to the variance of activations of this dtype."""
    return 1e-5 if dtype in REDUCED_PRECISION else 1e-8


class AffineBatchNorm(nn.Module):
    """:class:`BatchNorm` with a learnt gain and shift per channel, or per unit where no places follow the channels."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.empty(n))
        self.shift = nn.Parameter(torch.empty(n))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C) or (B, C, H, W) -> the same shape; sums are taken in fp32 whatever the dtype."""
        return normalised(x, self.gain, self.shift)

    def with_moments(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What ``forward`` gives, and the fp32 means (C,) and biased variances (C,) that it normalised by."""
        eps = batch_norm_eps(x.dtype)
        y, mean, inverse_std = torch.native_batch_norm(
            x, self.gain, self.shift, None, None, training=True, momentum=0.0, eps=eps
        )
        return y, mean, (inverse_std.double().pow(-2) - eps).clamp_min(0).float()


class Linear(nn.Module):
    """Matrix product without bias."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_out, n_in))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, n_in) -> (B, n_out)."""
        return F.linear(x, self.weight)


class Logits(Linear):
    """Last layer of a discriminator; the loss and the sigmoid are computed in fp32."""

    def __init__(self, n_in: int) -> None:
        super().__init__(n_in, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, n_in) -> fp32 logits (B, 1)."""
        return super().forward(x).float()


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


class Convolution(nn.Module):
    """Convolution without bias, of an odd kernel k with padding k // 2: the side divided by the stride."""

    def __init__(self, n_in: int, n_out: int, *, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(n_out, n_in, kernel, kernel))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, n_in, H, W) -> (B, n_out, H / stride, W / stride)."""
        return F.conv2d(x, self.weight, stride=self.stride, padding=self.weight.shape[-1] // 2)

    def extra_repr(self) -> str:
        """What the shape of the weights does not tell."""
        return f"stride={self.stride}"


class Deconvolution(nn.Module):
    """Fractionally strided convolution without bias, of an odd kernel: the side times the stride, exactly."""

    def __init__(self, n_in: int, n_out: int, *, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(n_in, n_out, kernel, kernel))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, n_in, H, W) -> (B, n_out, H * stride, W * stride)."""
        padding = self.weight.shape[-1] // 2
        return F.conv_transpose2d(x, self.weight, stride=self.stride, padding=padding, output_padding=self.stride - 1)

    def extra_repr(self) -> str:
        """What the shape of the weights does not tell."""
        return f"stride={self.stride}"


class MaxPool(nn.Module):
    """The largest of each 2 x 2 places. Not ``F.max_pool2d``, whose gradient on CUDA is not repeatable."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C, H/2, W/2)."""
        x = torch.maximum(x[:, :, ::2], x[:, :, 1::2])
        return torch.maximum(x[..., ::2], x[..., 1::2])


class Upsample(nn.Module):
    """Each place four times: nearest-neighbour upsampling."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C, 2H, 2W)."""
        return F.interpolate(x, scale_factor=2.0, mode="nearest")


class Maxout(nn.Module):
    """The larger of two linear pieces (Goodfellow et al. 2013): channel c of the first half with c of the second."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 2C) or (B, 2C, H, W) -> (B, C) or (B, C, H, W)."""
        first, second = x.chunk(2, dim=1)
        return torch.maximum(first, second)


class GlobalAverage(nn.Module):
    """The mean over places, in fp32."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> fp32 (B, C)."""
        return x.float().mean(dim=(2, 3))


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
    """Draw every weight from N(0, std^2), in the order of the parameters (DCGAN section 4: std 0.02).

    Batch norm's gains are drawn from N(1, std^2), its shifts are 0 (authors' code).
    """
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            kind = name.rpartition(".")[2]
            if kind == "shift":
                parameter.zero_()
            else:
                parameter.normal_(1.0 if kind == "gain" else 0.0, std, generator=generator)
