"""Simulated annotators, for tests of the page and of the report; their votes say so and never count as people's."""

from dataclasses import dataclass

import numpy as np

from pipeline.core import seeding
from pipeline.turing.deck import Deck
from pipeline.turing.rounds import Mode, Screen, screen
from pipeline.turing.votes import Vote, votes_of


@dataclass(frozen=True, kw_only=True)
class SimulatedAnnotator:
    """Right with a given probability, which rises with feedback.

    Attributes
    ----------
    name : a pseudonym
    share_correct : probability of a right answer at first, and always without feedback; 0.5 guesses
    share_learnt : probability that it comes near to with feedback
    screens_to_learn : after so many screens the gap has shrunk to 1/e of what it was; above 0
    """

    name: str
    share_correct: float
    share_learnt: float
    screens_to_learn: float

    def p_correct(self, mode: Mode, number: int) -> float:
        """Probability of a right answer on the screen of this number."""
        if mode == "plain":
            return self.share_correct
        gap = self.share_learnt - self.share_correct
        return self.share_learnt - gap * float(np.exp(-number / self.screens_to_learn))


def answers(deck: Deck, shown: Screen, annotator: SimulatedAnnotator, *, seed: int) -> list[bool]:
    """Nine answers to a screen, drawn by seed: whether the image at each place is said to be generated."""
    rng = seeding.numpy_stream(seed, f"turing/simulated/{deck.sha256}/{annotator.name}/{shown.mode}", shown.number)
    right = rng.random(len(shown.rows)) < annotator.p_correct(shown.mode, shown.number)
    return [bool(truth == is_right) for truth, is_right in zip(deck.generated[list(shown.rows)], right, strict=True)]


def vote(
    deck: Deck, annotator: SimulatedAnnotator, *, mode: Mode, n_screens: int, seed: int, first: int = 0
) -> list[Vote]:
    """Votes on the screens ``first`` to ``first + n_screens - 1``, each marked as simulated; seconds are drawn too."""
    votes = []
    for number in range(first, first + n_screens):
        shown = screen(deck, seed=seed, annotator=annotator.name, mode=mode, number=number)
        rng = seeding.numpy_stream(seed, f"turing/simulated/{deck.sha256}/{annotator.name}/{mode}/seconds", number)
        said = answers(deck, shown, annotator, seed=seed)
        votes += votes_of(deck, shown, said, seconds=float(rng.uniform(5, 30)), simulated=True)
    return votes
