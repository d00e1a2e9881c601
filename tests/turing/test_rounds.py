"""Screens: four or five of nine, none twice, all images in turn, and the same again after a restart."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_decks import made_deck

from pipeline.turing.rounds import N_SHOWN, example_screen, screen

DECK = made_deck()


def screens(deck, n, *, annotator="a1", mode="plain", seed=1):
    return [screen(deck, seed=seed, annotator=annotator, mode=mode, number=number) for number in range(n)]


@settings(max_examples=60, deadline=None)
@given(
    n_real=st.integers(5, 14),
    n_generated=st.integers(5, 14),
    seed=st.integers(0, 99),
    annotator=st.from_regex("[A-Za-z0-9_-]{1,20}", fullmatch=True),
    mode=st.sampled_from(["plain", "feedback"]),
    n_screens=st.integers(1, 14),
)
def test_properties_of_screens(n_real, n_generated, seed, annotator, mode, n_screens):
    deck = made_deck(n_real=n_real, n_generated=n_generated, seed=seed)
    seen = Counter()
    for number, shown in enumerate(screens(deck, n_screens, annotator=annotator, mode=mode, seed=seed)):
        assert (shown.deck, shown.annotator, shown.mode, shown.number) == (deck.sha256, annotator, mode, number)
        assert len(shown.rows) == len(set(shown.rows)) == N_SHOWN
        assert int(deck.generated[list(shown.rows)].sum()) in (4, 5)
        seen.update(shown.rows)
        for kind in (True, False):  # nobody sees one twice before all others of its kind
            counts = [seen[row] for row in np.flatnonzero(deck.generated == kind)]
            assert max(counts) - min(counts) <= 1


def test_a_pure_function():
    one = [screen(DECK, seed=1, annotator="a1", mode="plain", number=number) for number in (7, 0, 7, 3)]
    assert one[0] == one[2]
    assert one == [screens(DECK, 8)[number] for number in (7, 0, 7, 3)]


def test_the_same_in_threads():
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: screens(DECK, 5), range(8)))
    assert all(each == found[0] for each in found)


@pytest.mark.parametrize("other", [{"annotator": "a2"}, {"mode": "feedback"}, {"seed": 2}])
def test_annotators_modes_and_seeds_have_their_own(other):
    assert [s.rows for s in screens(DECK, 3)] != [s.rows for s in screens(DECK, 3, **other)]


def test_another_deck_has_its_own():
    other = made_deck(seed=5)
    assert [s.rows for s in screens(DECK, 3)] != [s.rows for s in screens(other, 3)]


def test_half_is_generated_and_places_tell_nothing():
    """400 screens: four and five equally often, whatever came before; at each place half is generated."""
    truth = np.array([DECK.generated[list(shown.rows)] for shown in screens(DECK, 400)])
    many = truth.sum(axis=1) == 5
    assert many.mean() == pytest.approx(0.5, abs=0.1)  # four standard deviations
    assert many[1:][many[:-1]].mean() == pytest.approx(0.5, abs=0.15)
    assert truth.mean(axis=0) == pytest.approx(np.full(N_SHOWN, 0.5), abs=0.1)


def test_no_screen_before_the_first():
    with pytest.raises(ValueError, match="counted from 0, -1"):
        screen(DECK, seed=1, annotator="a1", mode="plain", number=-1)


def test_the_example_of_figure_2_has_a_mistake_of_each_kind():
    for seed in range(5):
        example = example_screen(DECK, seed)
        assert example.images.shape == (9, 4, 4, 1)
        assert example.images.dtype == np.uint8
        assert example.mistakes.sum() == 2
        assert example.mistakes[example.generated].sum() == 1
        np.testing.assert_array_equal(example.answers != example.generated, example.mistakes)
    again, other = example_screen(DECK, 0), example_screen(DECK, 1)
    np.testing.assert_array_equal(again.images, example_screen(DECK, 0).images)
    assert not np.array_equal(again.images, other.images)
