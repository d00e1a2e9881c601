"""Pictures inside a page: unchanged where there is room, then without loss, then with it; refused where torn."""

import base64
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from pipeline.core.errors import InputError
from pipeline.reporting.web import pictures


def save(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def noise(seed, side=64):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def smooth(side=72):
    ramp = np.arange(side, dtype=np.uint8) * 2
    return Image.fromarray(np.stack([np.add.outer(ramp, ramp * k).astype(np.uint8) for k in (0, 1, 2)], axis=2))


def pixels(picture):
    return np.asarray(Image.open(BytesIO(picture.content)).convert("RGB"))


@pytest.fixture
def two(tmp_path):
    """One of which PNG makes much, and one of which nothing can make less."""
    save(tmp_path / "figures/plain.png", smooth(), compress_level=0)
    save(tmp_path / "figures/noise.png", noise(0))
    return pictures.in_folders(tmp_path / "figures")


def total(found):
    return sum(
        len(picture.uri.partition(",")[2]) + len(picture.still_uri.partition(",")[2]) for picture in found.values()
    )


def test_pictures_of_folders_by_their_links(tmp_path):
    for name in ("figures/b.png", "figures/a.webp", "sheets/c.png"):
        save(tmp_path / name, noise(1, 4))
    (tmp_path / "figures/notes.txt").write_text("no picture")
    found = pictures.in_folders(tmp_path / "figures", tmp_path / "sheets", tmp_path / "nowhere")
    assert list(found) == ["figures/a.webp", "figures/b.png", "sheets/c.png"]
    assert found["sheets/c.png"] == tmp_path / "sheets/c.png"


def test_with_room_the_bytes_are_those_of_the_file(two):
    found = pictures.read(two)
    for link, picture in found.items():
        kind, _, content = picture.uri.partition(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(content) == two[link].read_bytes()
        assert (picture.width, picture.height) == pixels(picture).shape[1::-1]
        assert (picture.still_uri, picture.lossy) == ("", False)


def test_characters_are_counted_as_they_are_written(two):
    found = pictures.read(two)
    assert sum(picture.characters for picture in found.values()) == total(found)


def test_with_little_room_the_largest_is_compressed_and_its_pixels_stay(two):
    whole = pictures.read(two)
    assert whole["figures/noise.png"].characters < whole["figures/plain.png"].characters
    found = pictures.read(two, budget=total(whole) - 1)
    assert total(found) < total(whole)
    assert found["figures/plain.png"].kind == "image/webp"
    assert not found["figures/plain.png"].lossy
    assert found["figures/noise.png"] == whole["figures/noise.png"], "the rest is as it was"
    np.testing.assert_array_equal(pixels(found["figures/plain.png"]), np.asarray(smooth()))


def test_transparency_stays(tmp_path):
    image = smooth().convert("RGBA")
    image.putalpha(100)
    save(tmp_path / "figures/x.png", image, compress_level=0)
    paths = pictures.in_folders(tmp_path / "figures")
    found = pictures.read(paths, budget=pictures.read(paths)["figures/x.png"].characters - 1)["figures/x.png"]
    np.testing.assert_array_equal(np.asarray(Image.open(BytesIO(found.content))), np.asarray(image))


def test_with_less_room_it_is_compressed_with_loss_and_says_so(two):
    found = pictures.read(two, budget=12_000)
    assert total(found) <= 12_000
    assert found["figures/noise.png"].lossy
    assert not found["figures/plain.png"].lossy, "it was small enough"


def test_what_does_not_fit_at_all_is_refused(two):
    with pytest.raises(InputError, match=r"2 pictures take [\d,]+ characters of a page, at most 100 are allowed"):
        pictures.read(two, budget=100)


def test_the_same_pictures_give_the_same_bytes(two):
    assert pictures.read(two, budget=12_000) == pictures.read(two, budget=12_000)


def test_one_that_moves_brings_its_first_image_and_stays(tmp_path):
    frames = [smooth(64), noise(3)]
    save(tmp_path / "figures/walk.webp", frames[0], save_all=True, append_images=frames[1:], lossless=True)
    save(tmp_path / "figures/large.png", noise(4, 128))
    paths = pictures.in_folders(tmp_path / "figures")
    whole = pictures.read(paths)
    assert whole["figures/walk.webp"].still_uri.startswith("data:image/png;base64,")
    still = Image.open(BytesIO(whole["figures/walk.webp"].still)).convert("RGB")
    np.testing.assert_array_equal(np.asarray(still), np.asarray(frames[0]))
    found = pictures.read(paths, budget=total(whole) * 2 // 3)
    assert found["figures/walk.webp"] == whole["figures/walk.webp"]
    assert found["figures/large.png"].lossy


@pytest.mark.parametrize("keep", [0, 20, 2000])
def test_a_torn_picture_is_refused(tmp_path, keep):
    path = save(tmp_path / "figures/x.png", noise(5))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"x\.png: not a whole picture"):
        pictures.read(pictures.in_folders(tmp_path / "figures"))
