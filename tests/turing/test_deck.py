"""Decks: half real and half generated, the same bytes again, and every damage is found."""

import dataclasses
import json
import shutil

import numpy as np
import pandas as pd
import pytest

from pipeline.core.errors import InputError
from pipeline.core.files import write_text
from pipeline.core.store import no_rejects, open_set, write_arrays, write_set
from pipeline.turing import deck as decks
from pipeline.turing.deck import DeckParams, read_deck, read_decks, read_samples, read_seed, write_deck
from stages import turing_deck

CONFIG = DeckParams(title="Digits", real="mnist", generated="x/mb_mnist", part="images", n_images=20, seed=3)
TEST_ROWS = range(10, 40)


@pytest.fixture
def real(tmp_path):
    """40 images, the last 30 for testing; image i is all i."""
    images = np.broadcast_to(np.arange(40, dtype=np.uint8)[:, None, None, None], (40, 4, 4, 1))
    index = pd.DataFrame(
        {
            "key": [f"real/{i}" for i in range(40)],
            "split": ["train"] * 10 + ["test"] * 30,
            "label": -1,
            "source": "made",
        }
    )
    write_set(tmp_path / "sets" / "mnist", images, index, no_rejects())
    return open_set(tmp_path / "sets" / "mnist")


@pytest.fixture
def samples_file(tmp_path):
    """Two networks of 25 samples, all 100 + i and 200 + i, and the six best of the first."""
    values = np.stack([100 + np.arange(25), 200 + np.arange(25)]).astype(np.uint8)
    images = np.broadcast_to(values[:, :, None, None, None], (2, 25, 4, 4, 1))
    write_arrays(tmp_path / "mb_mnist.npz", images=images, top=images[0, [7, 3, 9, 1, 4, 8]])
    return tmp_path / "mb_mnist.npz"


@pytest.fixture
def written(tmp_path, real, samples_file):
    """A function that writes and reads a deck of these images."""

    def write(name="mnist", **changes):
        config = dataclasses.replace(CONFIG, **changes)
        out = tmp_path / "turing_deck" / name
        samples = read_samples(samples_file, config.part)
        write_deck(out, config, name=name, real=real, samples=samples, where="params.yaml, turing.decks.mnist")
        return read_deck(out)

    return write


def test_half_is_generated_and_each_image_is_what_the_truth_says(written, tmp_path):
    deck = written()
    truth = pd.read_parquet(tmp_path / "turing_deck" / "mnist" / "truth.parquet")
    assert deck.generated.sum() == 10
    assert len(deck.images) == 20
    for image, generated, key in zip(deck.images, truth["generated"], truth["key"], strict=True):
        value = int(image[0, 0, 0])
        assert key == (f"mb_mnist/0/{value - 100}" if generated else f"real/{value}")
        assert (value in range(100, 125)) if generated else (value in TEST_ROWS)
    assert truth["key"].is_unique
    assert truth["row"].tolist() == list(range(20))


def test_the_order_tells_nothing_and_comes_from_the_seed(written):
    first = written()
    assert first.generated.tolist() != sorted(first.generated.tolist())
    assert first.generated.tolist() != sorted(first.generated.tolist(), reverse=True)
    assert written().sha256 == first.sha256
    assert written(seed=4).sha256 != first.sha256
    assert written(name="other").sha256 != first.sha256  # two decks of the same images are not the same


def test_bytes_repeat(written, tmp_path):
    written()
    before = {path.name: path.read_bytes() for path in (tmp_path / "turing_deck" / "mnist").iterdir()}
    written()
    assert {path.name: path.read_bytes() for path in (tmp_path / "turing_deck" / "mnist").iterdir()} == before
    assert set(before) == {"images.npy", "truth.parquet", "deck.json"}


def test_of_the_best_only_the_best(written):
    deck = written(part="top", n_images=10)
    values = set(deck.images[deck.generated][:, 0, 0, 0].tolist())
    assert values == {107, 103, 109, 101, 104}


def test_null_is_as_many_as_there_are(written):
    assert len(written(n_images=None).images) == 50
    assert len(written(n_images=None, part="top").images) == 12


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"n_images": 52}, r"turing.decks.mnist.n_images: 52 are asked for.*25 generated.*30 real.*lower it to 50"),
        ({"n_images": 14, "part": "top"}, r"6 generated images.*lower it to 12"),
        ({"n_images": 21}, "expected an even number"),
        ({"name": "../up"}, "found the name '../up'"),
    ],
)
def test_too_few_images_and_bad_numbers(written, changes, expected):
    with pytest.raises(InputError, match=expected):
        written(**changes)


def test_too_few_for_a_screen(written, samples_file):
    with np.load(samples_file) as content:
        few = content["images"][:, :4]
    write_arrays(samples_file, images=few)
    with pytest.raises(InputError, match="needs at least 5 of each"):
        written(n_images=None)


def test_images_of_another_size(written, samples_file):
    write_arrays(samples_file, images=np.zeros((1, 25, 4, 4, 3), dtype=np.uint8))
    with pytest.raises(InputError, match=r"\(4, 4, 1\).*\(4, 4, 3\)"):
        written()


def test_samples_missing_damaged_or_of_another_form(tmp_path, samples_file):
    with pytest.raises(InputError, match="missing; run the stage"):
        read_samples(tmp_path / "gone.npz", "images")
    samples_file.write_bytes(samples_file.read_bytes()[:-100])
    with pytest.raises(InputError, match="not a whole file"):
        read_samples(samples_file, "images")
    write_arrays(samples_file, images=np.zeros((3, 4, 4, 1), dtype=np.uint8))
    with pytest.raises(InputError, match="expected uint8 images with 5 dimensions"):
        read_samples(samples_file, "images")
    with pytest.raises(InputError, match="top: found none"):
        read_samples(samples_file, "top")


# ---- reading ----


@pytest.mark.parametrize("name", ["images.npy", "truth.parquet", "deck.json"])
def test_a_file_is_gone(written, tmp_path, name):
    written()
    folder = tmp_path / "turing_deck" / "mnist"
    (folder / name).unlink()
    with pytest.raises(InputError, match=rf"no {name}.*dvc repro turing_deck@mnist"):
        read_deck(folder)


@pytest.mark.parametrize("name", ["images.npy", "truth.parquet", "deck.json"])
def test_a_file_is_cut_off(written, tmp_path, name):
    written()
    file = tmp_path / "turing_deck" / "mnist" / name
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(InputError, match="dvc repro turing_deck@mnist"):
        read_deck(file.parent)


def test_a_changed_pixel_or_truth_is_found(written, tmp_path):
    written()
    folder = tmp_path / "turing_deck" / "mnist"
    kept = tmp_path / "kept"
    shutil.copytree(folder, kept)
    pixels = bytearray((folder / "images.npy").read_bytes())
    pixels[-1] ^= 1
    (folder / "images.npy").write_bytes(pixels)
    with pytest.raises(InputError, match="something changed them"):
        read_deck(folder)
    truth = pd.read_parquet(kept / "truth.parquet")
    truth.loc[0, "generated"] = not truth.loc[0, "generated"]
    truth.to_parquet(kept / "truth.parquet", index=False)
    with pytest.raises(InputError, match="something changed them"):
        read_deck(kept)


def test_images_and_truth_of_other_numbers(written, tmp_path):
    written()
    folder = tmp_path / "turing_deck" / "mnist"
    truth = pd.read_parquet(folder / "truth.parquet")
    truth.iloc[:-1].to_parquet(folder / "truth.parquet", index=False)
    with pytest.raises(InputError, match="19 rows of truth, expected 20"):
        read_deck(folder)


def test_all_decks_of_a_profile(written, tmp_path):
    folder = tmp_path / "turing_deck"
    with pytest.raises(InputError, match=r"no deck there; run dvc repro turing_deck@"):
        read_decks(folder)
    written("b")
    written("a")
    (folder / ".c.partial").mkdir()  # of a stage that is running
    assert list(read_decks(folder)) == ["a", "b"]
    (folder / "a").rename(folder / "z")
    with pytest.raises(InputError, match="calls it 'a'"):
        read_decks(folder)


def test_the_same_deck_twice(written, tmp_path):
    """Votes name a deck by its sha256, so two names for one would count them twice."""
    written("a")
    folder = tmp_path / "turing_deck"
    shutil.copytree(folder / "a", folder / "b")
    about = json.loads((folder / "b" / "deck.json").read_text())
    write_text(folder / "b" / "deck.json", json.dumps(about | {"name": "b"}))
    with pytest.raises(InputError, match="a and b are the same"):
        read_decks(folder)


# ---- the stage ----

PARAMS = """turing:
  seed: 3
  decks:
    mnist: {title: Digits, real: mnist, generated: x/mb_mnist, part: images, n_images: 20}
"""


def test_the_stage_writes_the_deck_of_the_params(written, tmp_path, real, samples_file, monkeypatch):
    monkeypatch.chdir(tmp_path)
    params_file = tmp_path / "params.yaml"
    params_file.write_text(PARAMS)
    turing_deck.main(params_file, "mnist", real.path, samples_file, tmp_path / "out" / "mnist")
    deck = read_deck(tmp_path / "out" / "mnist")
    assert deck.sha256 == written().sha256
    assert (deck.title, deck.model, deck.dataset) == ("Digits", "mb_mnist", "mnist")
    assert "52.4 % of 2,000 votes" in deck.paper
    assert read_seed(params_file) == 3


def test_a_deck_without_a_number_of_the_paper(written):
    assert written("faces").paper == ""


def test_the_sha256_is_of_shape_pixels_and_truth():
    images, truth = np.zeros((4, 2, 3, 1), dtype=np.uint8), np.array([True, False, True, False])
    first = decks.deck_sha256(images, truth)
    assert decks.deck_sha256(images.reshape(4, 3, 2, 1), truth) != first
    assert decks.deck_sha256(images, ~truth) != first
    assert decks.deck_sha256(np.asfortranarray(images), truth) == first


def test_flags_of_another_archive(samples_file):
    content = bytearray(samples_file.read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 0x20  # in the directory: patched data
    samples_file.write_bytes(content)
    with pytest.raises(InputError, match="not a whole file"):
        read_samples(samples_file, "images")


def test_a_header_of_an_array_that_does_not_end(written, tmp_path):
    written()
    file = tmp_path / "turing_deck" / "mnist" / "images.npy"
    file.write_bytes(file.read_bytes().replace(b"'shape': (20, 4, 4, 1), }", b"'shape': (20, 4, 4, 1(, }"))
    with pytest.raises(InputError, match="not a whole NumPy array"):
        read_deck(file.parent)
