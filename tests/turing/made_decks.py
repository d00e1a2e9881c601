"""Made for tests of the visual Turing test: decks of tiny noise images, and votes."""

import numpy as np

from pipeline.turing.deck import Deck, deck_sha256
from pipeline.turing.rounds import screen
from pipeline.turing.votes import votes_of


def made_deck(*, n_real=12, n_generated=12, name="mnist", seed=0, title="Digits", model="mb_mnist"):
    """A deck in memory, as read_deck gives it."""
    rng = np.random.default_rng(seed)
    n = n_real + n_generated
    images = rng.integers(0, 256, (n, 4, 4, 1), dtype=np.uint8)
    generated = rng.permutation(n) < n_generated
    sha256 = deck_sha256(images, generated)
    return Deck(name=name, title=title, model=model, dataset="mnist", paper="", sha256=sha256,
                images=images, generated=generated)  # fmt: skip


def nine(deck, *, annotator="a1", mode="plain", number=0, wrong=(), seconds=4.0, simulated=False, seed=1):
    """The votes of one screen, right but for the places that are named."""
    shown = screen(deck, seed=seed, annotator=annotator, mode=mode, number=number)
    answers = [bool(deck.generated[row]) != (place in wrong) for place, row in enumerate(shown.rows)]
    return votes_of(deck, shown, answers, seconds=seconds, simulated=simulated)
