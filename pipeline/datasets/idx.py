"""The IDX format of MNIST: a big-endian header (two zeros, type, number of axes, sizes), then the bytes."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from pipeline.core.errors import InputError

UINT8 = 0x08


def read_bytes(path: Path, where: str = "") -> bytes:
    """The content of an IDX file, unpacked if its name ends in ``.gz``.

    ``where`` : what an error calls the file, if not by its path.

    Raises
    ------
    InputError
        If the file cannot be read, or a compressed one is truncated or damaged.
    """
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        message = f"{where or path}: truncated or damaged gzip file ({error}); download it again"
        raise InputError(message) from error
    except OSError as error:
        message = f"{where or path}: cannot be read ({error.strerror}); see to its permissions"
        raise InputError(message) from error


def decode(content: bytes, where: Path) -> np.ndarray:
    """uint8 array of an IDX file's content.

    Raises
    ------
    InputError
        If the header is not IDX of unsigned bytes, or its sizes do not match the number of bytes.
    """
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != UINT8:
        message = f"{where}: not an IDX file of unsigned bytes (it begins with {content[:4].hex(' ') or 'nothing'})"
        raise InputError(message)
    axes = content[3]
    header = 4 + 4 * axes
    sizes = content[4:header]
    shape = tuple(int(size) for size in np.frombuffer(sizes[: len(sizes) // 4 * 4], dtype=">u4"))
    expected = header + math.prod(shape)
    if len(shape) != axes or len(content) != expected:
        message = f"{where}: truncated or too long: {len(content)} bytes, its header {shape} asks for {expected}"
        raise InputError(message)
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)


def encode(array: np.ndarray) -> bytes:
    """IDX content of a uint8 array."""
    if array.dtype != np.uint8:
        message = f"IDX files of this project hold uint8, found {array.dtype}"
        raise ValueError(message)
    sizes = np.asarray(array.shape, dtype=">u4").tobytes()
    return bytes([0, 0, UINT8, array.ndim]) + sizes + np.ascontiguousarray(array).tobytes()
