"""Which images a person is shown: screens of 3 x 3, four or five of them generated, fixed by deck, seed and number.

The paper says neither how many images a screen has nor how they are drawn (Improved GAN, Figure 2 shows the page), so
that is ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.core import seeding
from pipeline.turing.deck import Deck

N_SHOWN = 9
FEW, MANY = 4, 5  # generated images of a screen
Mode = Literal["plain", "feedback"]  # feedback: mistakes and the running score are shown after each screen


@dataclass(frozen=True, kw_only=True)
class Screen:
    """Nine images to be judged at once.

    Attributes
    ----------
    deck : sha256 of the deck
    number : of the annotator's screens in this mode, from 0
    rows : 9 different rows of the deck, four or five of them generated, in the order of their places (row by row)
    """

    deck: str
    annotator: str
    mode: Mode
    number: int
    rows: tuple[int, ...]


def screen(deck: Deck, *, seed: int, annotator: str, mode: Mode, number: int) -> Screen:
    """The annotator's screen of this number; the same arguments always give the same one, also after a restart.

    Real and generated images each come in shuffled passes: an annotator sees none a second time (in a mode) before all
    others of its kind have been shown, and none twice on a screen. How many are generated is drawn for each screen
    alone, so that earlier screens do not tell it.
    """
    if number < 0:
        message = f"screens are counted from 0, {number} was given"
        raise ValueError(message)
    name = f"turing/screen/{deck.sha256}/{annotator}/{mode}"
    # one draw a screen, in order: a longer row of draws begins with the shorter one
    n_generated = np.where(seeding.numpy_stream(seed, f"{name}/counts").random(number + 1) < 0.5, FEW, MANY)
    rows = [
        *_last_drawn(np.flatnonzero(deck.generated), n_generated.tolist(), seed, f"{name}/generated"),
        *_last_drawn(np.flatnonzero(~deck.generated), (N_SHOWN - n_generated).tolist(), seed, f"{name}/real"),
    ]
    places = seeding.numpy_stream(seed, f"{name}/places", number).permutation(N_SHOWN)
    return Screen(
        deck=deck.sha256,
        annotator=annotator,
        mode=mode,
        number=number,
        rows=tuple(rows[place] for place in places),
    )


def _last_drawn(rows: np.ndarray, amounts: Sequence[int], seed: int, name: str) -> list[int]:
    """The rows of the last of several draws from a pile that is shuffled anew whenever it is used up."""
    pile: list[int] = []
    drawn: list[int] = []
    n_passes = 0
    for amount in amounts:
        drawn, pile = pile[:amount], pile[amount:]
        if missing := amount - len(drawn):
            shuffled = seeding.numpy_stream(seed, name, n_passes).permutation(rows).tolist()
            n_passes += 1
            new = [row for row in shuffled if row not in drawn][:missing]  # none twice on a screen
            pile = [row for row in shuffled if row not in new]
            drawn += new
    return drawn


@dataclass(frozen=True, kw_only=True)
class ExampleScreen:
    """A screen as Figure 2 of Improved GAN shows it, with answers that a seed drew: nobody gave them.

    Attributes
    ----------
    images : uint8 (9, H, W, C), by place
    generated, answers, mistakes : bool (9,): the truth, what was called generated, and where the two differ
    """

    images: np.ndarray
    generated: np.ndarray
    answers: np.ndarray
    mistakes: np.ndarray


def example_screen(deck: Deck, seed: int) -> ExampleScreen:
    """Nine images and answers with two mistakes: one generated image taken for real, one real for generated."""
    shown = list(screen(deck, seed=seed, annotator="example", mode="feedback", number=0).rows)
    generated = deck.generated[shown]
    rng = seeding.numpy_stream(seed, f"turing/example/{deck.sha256}")
    mistakes = np.zeros(N_SHOWN, dtype=np.bool_)
    for kind in (generated, ~generated):
        mistakes[rng.choice(np.flatnonzero(kind))] = True
    return ExampleScreen(
        images=np.array(deck.images[shown]), generated=generated, answers=generated ^ mistakes, mistakes=mistakes
    )
