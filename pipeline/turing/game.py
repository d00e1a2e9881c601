"""The rules of the visual Turing test, without HTTP: what is shown to whom, and what happens to an answer.

Nothing is kept between requests but the votes: a screen follows from deck, annotator, mode and number, and the tokens
in a page from the server's key. A server that was killed and started again goes on where it was.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge, Le, Len
from pydantic import StringConstraints, TypeAdapter, ValidationError

from pipeline.core.errors import InputError
from pipeline.core.params import section
from pipeline.turing.deck import Deck, read_deck, read_decks
from pipeline.turing.rounds import N_SHOWN, Mode, Screen, screen
from pipeline.turing.seal import Seal
from pipeline.turing.votes import MOST_SECONDS, PSEUDONYM, Vote, VoteLog, votes_of

MODES: tuple[Mode, ...] = ("plain", "feedback")


class RefusedError(Exception):
    """A request that is not answered as asked: the HTTP status, and a sentence for the annotator."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence


@section
class Answer:
    """What a page sends.

    Attributes
    ----------
    deck, sha256 : the deck by its name, and which one it was when the page was made
    number : of the screen
    picked : places that were marked as generated, 0 to 8
    seconds : from showing the screen to its submission
    token : says that this server showed this screen to this annotator
    """

    deck: Annotated[str, StringConstraints(max_length=60)]
    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
    annotator: Annotated[str, StringConstraints(pattern=f"^{PSEUDONYM}$")]
    mode: Mode
    number: Annotated[int, Ge(0), Le(10**6)]
    picked: Annotated[list[Annotated[int, Ge(0), Le(N_SHOWN - 1)]], Len(0, N_SHOWN)]
    seconds: Annotated[float, Ge(0), Le(MOST_SECONDS)]
    token: Annotated[str, StringConstraints(pattern="^[0-9a-f]{32}$")]


_ANSWER = TypeAdapter(Answer)


def read_answer(body: bytes) -> Answer:
    """An answer as posted.

    Raises
    ------
    RefusedError
        422 with the first thing that is wrong with it.
    """
    try:
        answer = _ANSWER.validate_json(body)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in problem["loc"]) or "the body"
        sentence = f"This is not an answer: {place[:60]}: {problem['msg'].replace('Input', 'value')}."
    else:
        if len(set(answer.picked)) == len(answer.picked):
            return answer
        sentence = "This is not an answer: picked: an image comes twice."
    raise RefusedError(422, sentence)


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A screen as a page shows it: nothing here depends on which images are generated, but the pictures behind the ids.

    Attributes
    ----------
    images : an id for each of the nine places
    token : goes back with the answer
    """

    deck: Deck
    annotator: str
    mode: Mode
    number: int
    images: Sequence[str]
    token: str


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of an answer.

    Attributes
    ----------
    votes : the nine that count, by place
    is_first : whether they are the ones of this very answer
    differs : whether an earlier answer, which said something else, counts instead
    n_right, n_judged : of all this annotator's votes in this deck and mode
    """

    votes: Sequence[Vote]
    is_first: bool
    differs: bool
    n_right: int
    n_judged: int


class Decks:
    """The decks of a profile. One that is made again while the server runs is read again.

    Raises
    ------
    InputError
        If there is none or one is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        stamps = {path.name: _stamp(path) for path in folder.glob("*")}  # before reading, as in get
        self._decks = read_decks(folder)
        self._stamps = {name: stamps.get(name) for name in self._decks}
        self._lock = threading.Lock()

    def __iter__(self):  # noqa: ANN204 - of names
        return iter(self._decks)

    def get(self, name: str) -> Deck:
        """The deck of that name as it is now.

        Raises
        ------
        RefusedError
            404 if there is none, 503 if its files are gone or damaged.
        """
        if name not in self._decks:
            raise RefusedError(404, f"There is no deck of that name; there are {', '.join(self._decks)}.")
        folder = self._folder / name
        with self._lock:
            if _stamp(folder) != self._stamps[name]:
                stamp = _stamp(folder)  # before reading: a deck that changes meanwhile is read once more
                try:
                    self._decks[name] = read_deck(folder)
                except InputError as error:
                    sentence = f"The images of this deck cannot be shown now; whoever runs the server: {error}"
                    raise RefusedError(503, sentence) from error
                self._stamps[name] = stamp
            return self._decks[name]


def _stamp(folder: Path) -> tuple[int, ...] | None:
    """What tells a deck from one that was put into its place; None if it is not whole."""
    try:
        states = [(folder / name).stat() for name in ("deck.json", "images.npy", "truth.parquet")]
    except OSError:
        return None
    return tuple(number for state in states for number in (state.st_ino, state.st_mtime_ns, state.st_size))


@dataclass(frozen=True, kw_only=True)
class Game:
    """All that the server needs to know.

    Attributes
    ----------
    seed : ``turing.seed``, draws the screens
    picture : an image, uint8 (H, W, C) -> bytes of a file whose length does not depend on what is on it
    """

    decks: Decks
    log: VoteLog
    seed: int
    seal: Seal
    picture: Callable[[np.ndarray], bytes]

    def show(self, name: str, annotator: str, mode: Mode) -> Shown:
        """The annotator's first screen without an answer."""
        deck = self.decks.get(name)
        number = self.log.next_screen(deck.sha256, annotator, mode)
        identity = (deck.sha256, annotator, mode, number)
        return Shown(
            deck=deck,
            annotator=annotator,
            mode=mode,
            number=number,
            images=[self.seal.token("image", *identity, place) for place in range(N_SHOWN)],
            token=self.seal.token("answer", *identity),
        )

    def image(self, name: str, annotator: str, mode: Mode, number: int, image: str) -> bytes:
        """The picture behind an id that this server put into a page.

        Raises
        ------
        RefusedError
            404 if it did not, or the deck is another one now.
        """
        deck = self.decks.get(name)
        for place in range(N_SHOWN):
            if self.seal.fits(image, "image", deck.sha256, annotator, mode, number, place):
                rows = self._screen(deck, annotator, mode, number).rows
                return self.picture(np.asarray(deck.images[rows[place]]))
        raise RefusedError(404, "There is no such image; reload the page.")

    def take(self, answer: Answer) -> Result:
        """Save an answer, unless the screen has one: the first counts.

        Raises
        ------
        RefusedError
            409 if the deck is another one now or the screen was not shown yet, 403 if the token is not ours, 507 if
            nothing can be saved.
        """
        deck = self.decks.get(answer.deck)
        mine = (deck.sha256, answer.annotator, answer.mode)
        if answer.sha256 != deck.sha256:
            sentence = (
                f"The deck '{deck.name}' was replaced since this screen was shown: these answers are for images that "
                "are no longer in it, so they were not saved. Go on with a screen of the new deck."
            )
            raise RefusedError(409, sentence)
        if not self.seal.fits(answer.token, "answer", *mine, answer.number):
            raise RefusedError(403, "This page is not from this server, or from before its key was renewed; reload it.")
        if answer.number > self.log.next_screen(*mine):
            sentence = (
                "The votes before this screen are no longer there, so it was not saved; go on with the next screen."
            )
            raise RefusedError(409, sentence)
        shown = self._screen(deck, answer.annotator, answer.mode, answer.number)
        said = [place in answer.picked for place in range(N_SHOWN)]
        votes = votes_of(deck, shown, said, seconds=answer.seconds, simulated=self.log.simulated)
        try:
            n_new = self.log.add(votes)
        except InputError as error:
            raise RefusedError(507, f"Your answers could not be saved: {error}.") from error
        return self._result(answer, said, n_new)

    def _result(self, answer: Answer, said: Sequence[bool], n_new: int) -> Result:
        screens = self.log.answered(answer.sha256, answer.annotator, answer.mode)
        votes = screens[answer.number]
        judged = [vote for some in screens.values() for vote in some]
        return Result(
            votes=votes,
            is_first=n_new == N_SHOWN,
            differs=[vote.answer for vote in votes] != list(said),
            n_right=sum(vote.answer == vote.truth for vote in judged),
            n_judged=len(judged),
        )

    def _screen(self, deck: Deck, annotator: str, mode: Mode, number: int) -> Screen:
        return screen(deck, seed=self.seed, annotator=annotator, mode=mode, number=number)
