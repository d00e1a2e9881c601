"""Images between their forms: uint8 N x H x W x C as stored, float N x C x H x W as networks see them, and sheets."""

from typing import TYPE_CHECKING

import numpy as np

from pipeline.core.compute import to_device

if TYPE_CHECKING:
    import torch  # sheets are laid out without it


def to_unit(images: np.ndarray, device: str = "cpu") -> "torch.Tensor":
    """uint8 (N, H, W, C) -> float32 (N, C, H, W) in [0, 1], channels_last: x / 255, the range of the MNIST networks."""
    import torch

    tensor = to_device(torch.from_numpy(np.ascontiguousarray(images)), device)
    return tensor.permute(0, 3, 1, 2).to(torch.float32).div_(255.0)


def from_unit(images: "torch.Tensor") -> np.ndarray:
    """float (N, C, H, W) in [0, 1] -> uint8 (N, H, W, C), rounded to the nearest of 256 levels."""
    import torch

    levels = images.float().mul(255.0).round_().clamp_(0, 255).to(torch.uint8)
    return levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def grid(images: np.ndarray, rows: int, columns: int, gap_px: int = 0, fill: int = 255) -> np.ndarray:
    """Lay uint8 images (rows * columns, H, W, C) out row by row on one sheet (H', W', C)."""
    if len(images) != rows * columns:
        message = f"a {rows} x {columns} sheet takes {rows * columns} images, {len(images)} were given"
        raise ValueError(message)
    _, height, width, channels = images.shape
    sheet = np.full(
        (rows * (height + gap_px) - gap_px, columns * (width + gap_px) - gap_px, channels), fill, dtype=np.uint8
    )
    for index, image in enumerate(images):
        top, left = (index // columns) * (height + gap_px), (index % columns) * (width + gap_px)
        sheet[top : top + height, left : left + width] = image
    return sheet
