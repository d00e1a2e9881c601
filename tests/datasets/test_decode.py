"""Decoding: every kind of image becomes upright RGB, every damaged one is refused with a reason, crops are exact."""

import io
import struct
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps

from pipeline.datasets import decode as decoding
from pipeline.datasets.decode import (
    Decoding,
    Rejected,
    crop_geometry,
    decode,
    resize_and_crop,
    transform_boxes,
    upright,
)

LIMITS = Decoding(max_pixels=1_000_000, max_aspect_ratio=20.0)
NO_TAGS = b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"


NOISE = np.random.default_rng(5).integers(0, 256, (80, 120, 3), dtype=np.uint8)


def smooth(width=96, height=64, seed=0):
    """RGB picture without fine detail, so that lossy codecs keep it within a few levels."""
    rng = np.random.default_rng(seed)
    return cv2.resize(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)


def encoded(picture, kind="JPEG", mode=None, **options):
    image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    buffer = io.BytesIO()
    (image.convert(mode) if mode else image).save(buffer, kind, **options)
    return buffer.getvalue()


def reason(content, limits=LIMITS, at_least=None):
    with pytest.raises(Rejected) as caught:
        decode(content, limits, at_least)
    return str(caught.value)


# what is accepted


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("JPEG", "RGB", {"quality": 95}),
        ("JPEG", "RGB", {"quality": 95, "progressive": True}),
        ("JPEG", "L", {"quality": 95}),
        ("JPEG", "CMYK", {"quality": 95}),
        ("PNG", "RGB", {}),
        ("PNG", "L", {}),
        ("PNG", "1", {}),
        ("PNG", "P", {}),
        ("PNG", "RGBA", {}),
        ("PNG", "LA", {}),
        ("WEBP", "RGB", {"quality": 95}),
        ("WEBP", "RGBA", {"lossless": True}),
    ],
)
def test_every_mode_becomes_rgb(kind, mode, options):
    picture = Image.fromarray(smooth()).convert(mode)
    decoded = decode(encoded(picture, kind, **options), LIMITS)
    assert (decoded.rgb.dtype, decoded.rgb.shape) == (np.uint8, (64, 96, 3))
    assert (decoded.width, decoded.height) == (96, 64)
    assert decoded.rgb.flags.c_contiguous
    error = np.abs(decoded.rgb.astype(int) - np.asarray(picture.convert("RGB")).astype(int)).mean()
    assert error < (4 if kind != "PNG" else 1e-9)


def test_a_ycck_jpeg_as_photoshop_writes_it():
    # Pillow writes Adobe CMYK with the transform flag 0; 2 says that the same four channels are YCCK.
    content = encoded(smooth(), mode="CMYK", quality=95)
    at = content.index(b"Adobe") + 11
    assert content[at] == 0
    decoded = decode(content[:at] + b"\x02" + content[at + 1 :], LIMITS)
    plain = decode(content, LIMITS)
    assert decoded.rgb.shape == plain.rgb.shape
    assert not np.array_equal(decoded.rgb, plain.rgb)  # the flag was read


def test_transparency_is_laid_on_white():
    rgba = np.zeros((8, 8, 4), dtype=np.uint8)
    rgba[..., 0] = 200
    rgba[:, :4, 3] = 255
    rgba[:, 4:, 3] = 51
    rgb = decode(encoded(rgba, "PNG"), LIMITS).rgb
    assert (rgb[:, :4] == [200, 0, 0]).all()
    assert np.abs(rgb[:, 4:].astype(int) - [244, 204, 204]).max() <= 1  # a fifth of red, four fifths of white
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert (decode(encoded(palette, "PNG", transparency=1), LIMITS).rgb == 255).all()
    assert (decode(encoded(palette, "PNG", transparency=0), LIMITS).rgb == [10, 20, 30]).all()
    keyed = np.full((4, 4, 3), 7, dtype=np.uint8)
    assert (decode(encoded(keyed, "PNG", transparency=(7, 7, 7)), LIMITS).rgb == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_orientation_is_honoured(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    content = encoded(smooth(40, 24), kind, exif=exif, **options)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB"))
    decoded = decode(content, LIMITS)
    assert np.array_equal(decoded.rgb, expected)
    assert (decoded.height, decoded.width) == expected.shape[:2]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright_matches_pillow(orientation):
    picture = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.open(io.BytesIO(encoded(picture, "PNG", exif=exif)))
    assert np.array_equal(upright(picture, orientation), np.asarray(ImageOps.exif_transpose(image)))


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0"])
def test_damaged_exif_does_not_matter(exif):
    plain = encoded(smooth(), quality=90)
    content = encoded(smooth(), quality=90, exif=exif)
    assert np.array_equal(decode(content, LIMITS).rgb, decode(plain, LIMITS).rgb)


def test_the_name_does_not_decide_and_mpo_is_its_first_picture():
    first, second = Image.fromarray(smooth(seed=1)), Image.fromarray(smooth(seed=2))
    buffer = io.BytesIO()
    first.save(buffer, "MPO", save_all=True, append_images=[second])
    expected = np.asarray(Image.open(io.BytesIO(buffer.getvalue())))
    assert np.array_equal(decode(buffer.getvalue(), LIMITS).rgb, expected)


# reduced-size decoding


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize(
    ("short", "scale"), [(127, 1), (128, 1), (255, 1), (256, 2), (511, 2), (512, 4), (1023, 4), (1024, 8), (1025, 8)]
)
def test_reduced_decoding_only_at_twice_the_target(short, scale, progressive):
    limits = Decoding(max_pixels=10_000_000, max_aspect_ratio=20.0)
    content = encoded(smooth(short + 131, short), quality=95, progressive=progressive)
    full, reduced = decode(content, limits), decode(content, limits, at_least=64)
    sides = np.array([short, short + 131]) / scale
    assert reduced.rgb.shape[:2] == tuple(np.floor(sides + 0.5))  # the nearest whole number of blocks
    assert scale == 1 or min(reduced.rgb.shape[:2]) >= 128
    assert (reduced.width, reduced.height) == (full.width, full.height) == (short + 131, short)
    crop = crop_geometry(reduced.width, reduced.height, 64)
    small, exact = (resize_and_crop(decoded.rgb, 64, crop).astype(int) for decoded in (reduced, full))
    assert np.abs(small - exact).mean() < 1.5


def test_reduced_decoding_keeps_size_and_orientation():
    exif = Image.Exif()
    exif[0x0112] = 6
    decoded = decode(encoded(smooth(800, 600), exif=exif), LIMITS, at_least=64)
    assert (decoded.width, decoded.height) == (600, 800)
    assert decoded.rgb.shape == (200, 150, 3)
    png = decode(encoded(smooth(800, 600), "PNG"), LIMITS, at_least=64)
    assert png.rgb.shape == (600, 800, 3)


# the fast path


def by_pillow(content, at_least=None):
    """The picture, or None where Pillow refuses it."""
    image = Image.open(io.BytesIO(content), formats=["JPEG", "WEBP"])
    if at_least:
        image.draft(None, (2 * at_least, 2 * at_least))
    try:
        return np.asarray(image.convert("RGB"))
    except OSError:
        return None


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        *(("JPEG", "RGB", {"subsampling": subsampling}) for subsampling in (0, 1, 2)),
        ("JPEG", "RGB", {"progressive": True}),
        ("JPEG", "RGB", {"restart_marker_blocks": 3}),
        ("JPEG", "RGB", {"keep_rgb": True}),
        ("JPEG", "RGB", {"quality": 20, "optimize": True}),
        ("JPEG", "L", {}),
        ("WEBP", "RGB", {}),
        ("WEBP", "RGB", {"quality": 20}),
    ],
)
@pytest.mark.parametrize("at_least", [None, 16, 8, 4])
def test_opencv_gives_pillows_pixels(kind, mode, options, at_least):
    content = encoded(np.repeat(np.repeat(NOISE, 2, axis=0), 2, axis=1)[:156, :237], kind, mode, **options)
    if kind == "JPEG":
        assert decoding.is_whole_jpeg(content)
    expected = by_pillow(content, at_least if kind == "JPEG" else None)
    found = decode(content, LIMITS, at_least).rgb
    assert np.array_equal(found, expected[: found.shape[0], : found.shape[1]])
    assert max(np.subtract(expected.shape, found.shape)) <= 1


def test_opencv_is_used_and_pillow_is_there_if_it_fails(monkeypatch):
    calls = []
    monkeypatch.setattr(decoding, "_by_opencv", lambda *arguments: calls.append(arguments))
    content = encoded(smooth())
    assert np.array_equal(decode(content, LIMITS).rgb, by_pillow(content))
    assert calls == [(content, 1)]


def test_damaged_images_fare_as_with_pillow():
    """OpenCV decodes only what Pillow accepts, and to the same pixels, also where both guess the damaged part."""
    rng = np.random.default_rng(7)
    accepted = refused = 0
    for options in ({}, {"progressive": True}, {"restart_marker_blocks": 4}):
        content = encoded(NOISE, quality=80, **options)
        start = content.index(b"\xff\xda")
        for _ in range(150):
            damaged = bytearray(content)
            for place in rng.integers(start + 14, len(content) - 2, rng.integers(1, 4)):
                damaged[place] = int(rng.integers(0, 256))
            if rng.random() < 0.2:  # a piece is missing from the middle
                del damaged[start + 200 : start + 200 + int(rng.integers(1, 500))]
            expected = by_pillow(bytes(damaged))
            try:
                found = decode(bytes(damaged), LIMITS).rgb
            except Rejected:
                found = None
            assert (found is None) == (expected is None)
            assert found is None or np.array_equal(found, expected)
            accepted, refused = accepted + (found is not None), refused + (found is None)
    assert accepted > 100
    assert refused > 5


def test_whole_jpegs():
    content = encoded(smooth(), exif=NO_TAGS + encoded(smooth(16, 16)))  # with a thumbnail's markers inside
    assert decoding.is_whole_jpeg(content)
    assert decoding.is_whole_jpeg(content + b"trailing bytes")
    assert not any(decoding.is_whole_jpeg(content[:cut]) for cut in range(2, len(content) - 1))


# what is refused


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("JPEG", {"restart_marker_blocks": 4}),
        ("PNG", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"exif": NO_TAGS}),
    ],
)
@pytest.mark.parametrize("at_least", [None, 16])
def test_a_truncated_image_is_caught_wherever_it_is_cut(kind, options, at_least):
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    content = encoded(NOISE, kind, **options)
    decode(content, LIMITS, at_least)
    end = len(content) - (40 if kind == "PNG" else 10)  # after a PNG's pixels come a checksum and an empty chunk
    for cut in sorted({*np.linspace(1, end, 60, dtype=int).tolist(), 2, 3, 11, 12, 13, 16, 20, 24, 25, 29, 30, 33}):
        found = reason(content[:cut], LIMITS, at_least)
        assert found.startswith(("truncated or damaged: ", "not a JPEG, PNG or WebP image")), (cut, found)
        assert cut < 16 or found.startswith("truncated or damaged: ")
        assert " at 0x" not in found
        assert reason(content[:cut], LIMITS, at_least) == found


def test_damage_is_a_rejection_and_nothing_else():
    """Any change of any byte either decodes or is refused: no other error, no warning (they are errors here)."""
    rng = np.random.default_rng(6)
    refused = []
    for kind in ("JPEG", "PNG", "WEBP"):
        content = encoded(smooth(40, 30), kind)
        for _ in range(300):
            damaged = bytearray(content)
            for _ in range(int(rng.integers(1, 4))):
                damaged[int(rng.integers(0, min(len(damaged), 400)))] = int(rng.integers(0, 256))
            try:
                decode(bytes(damaged), LIMITS)
            except Rejected as rejected:
                refused.append(str(rejected))
    assert len(refused) > 100
    assert max(map(len, refused)) < 160
    assert "\n" not in "".join(refused)


def test_reasons():
    assert reason(b"") == "empty file"
    assert reason(b"a text file\n") == "not a JPEG, PNG or WebP image"
    assert reason(encoded(smooth(), "GIF")) == "not a JPEG, PNG or WebP image"
    assert reason(encoded(smooth(), "BMP")) == "not a JPEG, PNG or WebP image"
    frames = [Image.fromarray(smooth(seed=seed)) for seed in range(3)]
    animated = {"save_all": True, "append_images": frames[1:]}
    assert reason(encoded(frames[0], "WEBP", **animated)) == "animated (3 frames)"
    assert reason(encoded(frames[0], "PNG", **animated)) == "animated (3 frames)"
    assert reason(encoded(np.full((8, 8), 40_000, dtype=np.uint16), "PNG")) == "16-bit image"
    rgb16 = cv2.imencode(".png", np.full((8, 8, 3), 40_000, dtype=np.uint16))[1].tobytes()
    assert reason(rgb16) == "16-bit image"  # Pillow alone would cut it down to 8 bits
    for kind in ("JPEG", "PNG", "WEBP"):
        assert reason(encoded(smooth(1, 5000), kind)) == "aspect ratio 5000.0, at most 20"
        assert reason(encoded(smooth(5000, 1), kind)) == "aspect ratio 5000.0, at most 20"
        assert decode(encoded(smooth(100, 5), kind), LIMITS).width == 100


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "WEBP lossless", "WEBP exif"])
def test_pixels_are_counted_before_decoding(kind):
    options = {"lossless": True} if "lossless" in kind else {"exif": NO_TAGS} if "exif" in kind else {}
    content = encoded(np.zeros((1000, 1001, 3), np.uint8), kind.split()[0], **options)
    assert reason(content) == "1001000 pixels, at most 1000000"
    tracemalloc.start()
    for _ in range(2):  # the first call imports
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        reason(content)
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    assert peak < 500_000 + len(content)


def test_a_decompression_bomb():
    """A PNG header of 60,000 x 60,000 in 100 bytes, and a WebP of the largest size: beyond Pillow's own limit."""
    body = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", len(body)) + b"IHDR" + body + struct.pack(">I", zlib.crc32(b"IHDR" + body))
    pixels = struct.pack(">I", 9) + b"IDAT" + zlib.compress(b"0")
    assert reason(b"\x89PNG\r\n\x1a\n" + chunk + pixels) == "3600000000 pixels, at most 1000000"
    webp = bytearray(encoded(smooth(), "WEBP", exif=NO_TAGS))
    assert webp[12:16] == b"VP8X"
    webp[24:30] = (16_382).to_bytes(3, "little") * 2
    assert reason(bytes(webp)) == f"{16_383**2} pixels, at most 1000000"


# resizing and cropping


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 300))
def test_geometry(width, height, size):
    crop = crop_geometry(width, height, size)
    assert min(crop.width, crop.height) == size
    longer, other = (crop.width, width / height) if width > height else (crop.height, height / width)
    assert abs(longer - size * other) <= 0.5
    assert crop.left == (crop.width - size) // 2
    assert crop.top == (crop.height - size) // 2


def test_area_interpolation_is_the_mean_of_blocks():
    rgb = np.random.default_rng(0).integers(0, 256, (12, 24, 3), dtype=np.uint8)
    means = rgb.reshape(4, 3, 8, 3, 3).mean(axis=(1, 3))  # 4 x 8
    found = resize_and_crop(rgb, 4).astype(float)
    assert found.shape == (4, 4, 3)
    assert np.abs(found - means[:, 2:6]).max() <= 0.5 + 1e-9


@pytest.mark.parametrize(("width", "height"), [(64, 64), (65, 64), (64, 67), (200, 100), (33, 40), (1, 1), (3, 2)])
def test_crops_have_the_asked_size(width, height):
    rgb = smooth(width, height)
    small = resize_and_crop(rgb, 64)
    assert (small.shape, small.dtype) == ((64, 64, 3), np.uint8)
    assert small.flags.c_contiguous
    if (width, height) == (65, 64):
        assert np.array_equal(small, rgb[:, :64])  # no resampling, offset rounded down


def test_boxes_follow_the_picture():
    rgb = np.zeros((300, 400, 3), dtype=np.uint8)
    rgb[90:180, 150:240] = 255
    crop = crop_geometry(400, 300, 100)
    x1, y1, x2, y2 = transform_boxes(np.array([[150, 90, 240, 180]]), crop)[0]
    inside = resize_and_crop(rgb, 100)[..., 0] > 127
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    assert (y1, y2) == pytest.approx((rows[0], rows[-1] + 1), abs=0.5)
    assert (x1, x2) == pytest.approx((columns[0], columns[-1] + 1), abs=0.5)


def test_boxes_are_clipped_and_vanish():
    crop = crop_geometry(200, 100, 50)  # halved, 25 pixels cut off left and right
    boxes = np.array([[40, 0, 120, 100], [0, 0, 50, 100], [np.nan] * 4, [0, 0, 52, 10], [60, 10, np.nan, 20]])
    moved = transform_boxes(boxes, crop)
    assert moved.dtype == np.float32
    assert moved[0].tolist() == [0, 0, 35, 50]
    assert moved[3].tolist() == [0, 0, 1, 5]
    assert np.isnan(moved[[1, 2, 4]]).all()  # outside, none, half a box
    assert transform_boxes(np.empty((0, 4)), crop).shape == (0, 4)
