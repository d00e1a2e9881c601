"""Simulated annotators: as often right as they should be, better with feedback, and always marked."""

import dataclasses

import pytest
from made_decks import made_deck

from pipeline.core.errors import InputError
from pipeline.turing.rounds import screen
from pipeline.turing.simulated import SimulatedAnnotator, answers, vote
from pipeline.turing.votes import VoteLog

DECK = made_deck()
LEARNER = SimulatedAnnotator(name="s1", share_correct=0.6, share_learnt=0.95, screens_to_learn=10)


def share_correct(votes):
    return sum(vote.truth == vote.answer for vote in votes) / len(votes)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.8, 1.0])
def test_the_share_that_was_asked_for(share):
    annotator = dataclasses.replace(LEARNER, share_correct=share)
    votes = vote(DECK, annotator, mode="plain", n_screens=150, seed=2)
    assert len(votes) == 1350
    assert share_correct(votes) == pytest.approx(share, abs=0.05)


def test_feedback_helps_up_to_a_limit():
    assert LEARNER.p_correct("feedback", 0) == LEARNER.p_correct("plain", 500) == 0.6
    assert LEARNER.p_correct("feedback", 10) == pytest.approx(0.95 - 0.35 / 2.718281828)
    assert LEARNER.p_correct("feedback", 500) == pytest.approx(0.95)
    votes = vote(DECK, LEARNER, mode="feedback", n_screens=150, seed=2)
    assert share_correct(votes[:45]) < share_correct(votes[-450:]) - 0.1


def test_the_same_seed_gives_the_same_votes_and_each_is_marked():
    votes = vote(DECK, LEARNER, mode="plain", n_screens=4, seed=2)
    assert votes == vote(DECK, LEARNER, mode="plain", n_screens=4, seed=2)
    assert votes[18:] == vote(DECK, LEARNER, mode="plain", n_screens=2, first=2, seed=2)
    assert votes != vote(DECK, LEARNER, mode="plain", n_screens=4, seed=3)
    assert all(each.simulated for each in votes)
    shown = screen(DECK, seed=2, annotator="s1", mode="plain", number=3)
    assert answers(DECK, shown, LEARNER, seed=2) == [each.answer for each in votes[27:]]


def test_they_are_refused_among_peoples_votes(tmp_path):
    with VoteLog(tmp_path / "votes.jsonl") as log, pytest.raises(InputError, match="simulated votes do not belong"):
        log.add(vote(DECK, LEARNER, mode="plain", n_screens=1, seed=2))
