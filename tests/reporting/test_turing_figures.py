"""The screen of the visual Turing test in a picture: an example, whose answers nobody gave."""

import made_scores as made
import numpy as np
import pytest

from pipeline.core.errors import InputError
from pipeline.reporting import drawing, turing_figures
from pipeline.reporting.figures import FIGURES
from pipeline.reporting.rows import NOT_RUN
from pipeline.reporting.turing_figures import NUMBERS
from pipeline.turing.deck import read_deck
from pipeline.turing.rounds import example_screen

BLUE, RED = (0x1F, 0x77, 0xB4), (0xD6, 0x27, 0x28)


def shaded(n=40, side=8, channels=1):
    levels = (np.arange(n) + 40).astype(np.uint8).reshape(-1, 1, 1, 1)
    return np.broadcast_to(levels, (n, side, side, channels)).copy(), np.arange(n) % 2 == 0


@pytest.fixture
def decks(tmp_path):
    made.write_deck(tmp_path / "decks", "mnist", *shaded())
    return tmp_path / "decks"


@pytest.fixture
def said(monkeypatch):
    found = []

    def recorded(text, *, _words=turing_figures.mosaic.words, **options):
        found.append(text)
        return _words(text, **options)

    monkeypatch.setattr(turing_figures.mosaic, "words", recorded)
    return found


def seen(figure):
    return np.asarray(figure.convert("RGB"))


def places(picture, level):
    return np.argwhere((picture == level).all(axis=-1))


def test_both_halves_show_the_same_nine_images_in_their_places(decks):
    picture = seen(FIGURES["improved_fig2"](decks).figure)
    shown = example_screen(read_deck(decks / "mnist"), 0)
    middle = picture.shape[1] / 2
    rows, columns = [], []
    for image in shown.images:
        found = places(picture, image[0, 0])
        left, right = found[found[:, 1] < middle], found[found[:, 1] > middle]
        assert len(left) == len(right) == (8 * 14) ** 2, "enlarged to 112 pixels"
        assert left[:, 0].min() == right[:, 0].min()
        rows.append(left[:, 0].min())
        columns.append(left[:, 1].min())
    assert len(set(rows[:3])) == len(set(rows[3:6])) == len(set(rows[6:])) == 1
    assert rows[0] < rows[3] < rows[6]
    assert columns[:3] == columns[3:6] == columns[6:] == sorted(columns[:3])


def test_mistakes_are_outlined_on_the_right_alone(decks):
    picture = seen(FIGURES["improved_fig2"](decks).figure)
    shown = example_screen(read_deck(decks / "mnist"), 0)
    middle = picture.shape[1] // 2
    assert not places(picture[:, :middle], RED).size
    assert not places(picture[:, :middle], BLUE).size, "the screen tells nothing before the answer"
    for image, answer, mistake in zip(shown.images, shown.answers, shown.mistakes, strict=True):
        right = places(picture[:, middle:], image[0, 0])
        top, left = right.min(axis=0)
        frame = tuple(picture[top - 2, middle + left + 20])
        assert frame == (RED if mistake else BLUE if answer else (0xC8,) * 3)


def test_words_say_that_nobody_answered_and_what_the_mistakes_were(decks, said):
    drawn = FIGURES["improved_fig2"](decks)
    assert "title of mnist: which of these are generated?" in said
    assert "after the answer: 7 of 9 right" in said
    shown = example_screen(read_deck(decks / "mnist"), 0)
    assert said[:9] == [""] * 9, "the screen tells nothing before the answer"
    truth = {True: "it is generated", False: "it is real"}
    pairs = zip(shown.generated, shown.mistakes, strict=True)
    assert said[10:19] == [truth[bool(generated)] if mistake else "" for generated, mistake in pairs]
    assert set(said[10:19]) == {"", *truth.values()}
    assert any("the answers were drawn by seed, no human gave them" in text for text in said)
    assert {name: drawn.metrics[name] for name in ("n_shown", "n_mistakes", "n_human_answers", "deck", "model")} == {
        "n_shown": 9, "n_mistakes": 2, "n_human_answers": 0, "deck": "mnist", "model": "mb_mnist",
    }  # fmt: skip


def test_numbers_are_the_examples(decks):
    numbers = FIGURES["improved_fig2"](decks).numbers
    shown = example_screen(read_deck(decks / "mnist"), 0)
    assert numbers.columns.tolist() == list(NUMBERS)
    assert numbers["generated"].tolist() == shown.generated.tolist()
    assert (numbers["mistake"] == (numbers["generated"] != numbers["answer"])).all()
    assert numbers["generated"].sum() in (4, 5)


def test_mnist_is_shown_else_the_first_deck(tmp_path, decks):
    made.write_deck(decks, "a_deck", *shaded(channels=3))
    assert FIGURES["improved_fig2"](decks).metrics["deck"] == "mnist"
    made.write_deck(tmp_path / "others", "cifar10_top", *shaded(n=20, side=32, channels=3))
    made.write_deck(tmp_path / "others", "cifar10", *shaded(side=32, channels=3))
    drawn = FIGURES["improved_fig2"](tmp_path / "others")
    assert (drawn.metrics["deck"], drawn.metrics["scale"]) == ("cifar10", 3)


def test_without_a_deck_the_picture_says_so(tmp_path):
    for folder in (tmp_path, tmp_path / "nothing"):
        drawn = FIGURES["improved_fig2"](folder)
        assert drawn.metrics == {"n_results": 0}
        assert drawn.figure.axes[0].texts[0].get_text() == NOT_RUN
        assert drawn.numbers.columns.tolist() == list(NUMBERS)


def test_a_changed_deck_is_refused(decks):
    images, _ = shaded()
    np.save(decks / "mnist/images.npy", images[::-1])
    with pytest.raises(InputError, match="images and truth have the sha256"):
        FIGURES["improved_fig2"](decks)


def test_the_picture_repeats_in_bytes_and_fits_git(decks, tmp_path):
    for copy in ("a.png", "b.png"):
        drawing.save(FIGURES["improved_fig2"](decks).figure, tmp_path / copy)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.png").stat().st_size < 500_000
