"""The IDX format."""

import gzip
from pathlib import Path

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given, settings

from pipeline.core.errors import InputError
from pipeline.datasets import idx

WHERE = Path("raw/toy-idx3-ubyte")
DIGITS = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
# strict: as soon as the bug is mended, this mark goes


@settings(deadline=None, max_examples=50)
@given(arrays.arrays(np.uint8, arrays.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=6)))
def test_decode_inverts_encode(array):
    content = idx.encode(array)
    assert len(content) == 4 + 4 * array.ndim + array.size
    found = idx.decode(content, WHERE)
    assert (found.dtype, found.shape) == (np.uint8, array.shape)
    assert np.array_equal(found, array)


def test_the_header_is_mnists():
    images = np.zeros((300, 28, 28), dtype=np.uint8)
    assert idx.encode(images)[:16] == bytes.fromhex("00000803 0000012c 0000001c 0000001c")
    assert idx.encode(np.array([7, 8], dtype=np.uint8)) == bytes.fromhex("00000801 00000002 07 08")


def test_a_strided_array_is_written_in_c_order():
    assert np.array_equal(idx.decode(idx.encode(DIGITS.transpose(2, 0, 1)), WHERE), DIGITS.transpose(2, 0, 1))


def test_only_bytes_are_written():
    with pytest.raises(ValueError, match="hold uint8, found float64"):
        idx.encode(np.zeros(3))


@pytest.mark.parametrize("keep", [4, 8, 12, 6, 15, 16, 39])
def test_truncated(keep):
    with pytest.raises(InputError, match=f"toy-idx3-ubyte: truncated or too long: {keep} bytes, its header"):
        idx.decode(idx.encode(DIGITS)[:keep], WHERE)


def test_too_long():
    with pytest.raises(InputError, match=r"truncated or too long: 41 bytes, its header \(2, 3, 4\) asks for 40"):
        idx.decode(idx.encode(DIGITS) + b"\0", WHERE)


@pytest.mark.parametrize(
    ("content", "begin"),
    [
        (b"\x89PNG" + bytes(40), "89 50 4e 47"),  # another format
        (b"\x1f\x8b\x08\x00" + bytes(40), "1f 8b 08 00"),  # packed, without .gz in its name
        (b"\0\1" + idx.encode(DIGITS)[2:], "00 01 08 03"),
        (b"\0\0\x0d" + idx.encode(DIGITS)[3:], "00 00 0d 03"),  # floats
        (b"\0\0", "00 00"),
        (b"", "nothing"),
    ],
)
def test_another_kind_of_file(content, begin):
    with pytest.raises(InputError, match=rf"toy-idx3-ubyte: not an IDX file .*\(it begins with {begin}\)"):
        idx.decode(content, WHERE)


def test_read_bytes_unpacks_by_name(tmp_path):
    content = idx.encode(DIGITS)
    (tmp_path / "plain").write_bytes(content)
    (tmp_path / "packed.gz").write_bytes(gzip.compress(content))
    assert idx.read_bytes(tmp_path / "plain") == idx.read_bytes(tmp_path / "packed.gz") == content


def damaged(kind):
    packed = bytearray(gzip.compress(np.random.default_rng(0).bytes(2000)))
    if kind == "flipped":
        packed[1000] ^= 0xFF
    elif kind == "checksum":
        packed[-8] ^= 0xFF
    elif kind == "not_gzip":
        packed[:2] = b"PK"
    else:
        del packed[{"half": 1000, "header": 5, "trailer": -4}[kind] :]
    return bytes(packed)


@pytest.mark.parametrize("kind", ["half", "header", "trailer", "flipped", "checksum", "not_gzip"])
def test_a_damaged_gzip_file(tmp_path, kind):
    path = tmp_path / "toy.gz"
    path.write_bytes(damaged(kind))
    with pytest.raises(InputError, match=r"toy\.gz: truncated or damaged gzip file .*; download it again") as caught:
        idx.read_bytes(path)
    assert str(path) in str(caught.value)
