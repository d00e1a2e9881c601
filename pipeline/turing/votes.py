"""Votes of people: a file to which whole lines are only ever appended, so that no acknowledged vote is lost.

One JSON object a line. A vote is acknowledged after one write and an fsync; what a killed server left half-written was
never acknowledged, and is set aside when the file is opened again.
"""

import os
import re
import reprlib
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Annotated, Self

import pandas as pd
from annotated_types import Ge, Le
from pydantic import StringConstraints, TypeAdapter, ValidationError

from pipeline.core.errors import InputError
from pipeline.core.params import section
from pipeline.core.scratch import locked
from pipeline.turing.deck import NAME, Deck
from pipeline.turing.rounds import N_SHOWN, Mode, Screen

PSEUDONYM = "[A-Za-z0-9_-]{1,20}"  # as in pipeline.internals.annotations, which loads networks
MOST_SECONDS = 86_400.0  # of a screen: a page left open for longer says nothing

Person = tuple[str, str, Mode]  # deck, annotator, mode
Place = tuple[int, int]  # screen, place: a person has one vote at each


@section
class Vote:
    """What one person said of one image.

    Attributes
    ----------
    deck : sha256 of the deck
    deck_name, model : what the deck was called, and whose images are the generated ones; for readers of the file
    annotator : a pseudonym
    screen : number of the screen, from 0; the nine votes of a screen come together
    place : 0 to 8 on the screen, row by row
    image : row of the deck
    truth : whether the image is generated
    answer : whether the person said so
    seconds : from showing the screen to its submission; the same for the nine votes of a screen
    simulated : whether a program voted; such votes never lie in the file of people's votes
    """

    deck: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    deck_name: Annotated[str, StringConstraints(pattern=f"^{NAME}$")]
    model: Annotated[str, StringConstraints(pattern=f"^{NAME}$")]
    annotator: Annotated[str, StringConstraints(pattern=f"^{PSEUDONYM}$")]
    mode: Mode
    screen: Annotated[int, Ge(0)]
    place: Annotated[int, Ge(0), Le(N_SHOWN - 1)]
    image: Annotated[int, Ge(0)]
    truth: bool
    answer: bool
    seconds: Annotated[float, Ge(0), Le(MOST_SECONDS)]
    simulated: bool

    @property
    def person(self) -> Person:
        """Whose vote it is: of whom, on which deck, in which mode."""
        return self.deck, self.annotator, self.mode

    @property
    def at(self) -> Place:
        """Where on whose screens; another vote of this person there would be a second one."""
        return self.screen, self.place


COLUMNS = tuple(field.name for field in fields(Vote))  # pyright: ignore[reportArgumentType] - a section is a dataclass
_VOTE = TypeAdapter(Vote)


def check_annotator(annotator: str) -> str:
    """The pseudonym itself.

    Raises
    ------
    InputError
        If it is not one of at most 20 letters, digits, hyphens and underscores.
    """
    if not re.fullmatch(PSEUDONYM, annotator):
        message = f"annotator: found {annotator[:40]!r}, expected a pseudonym of at most 20 letters A-Z a-z, digits, "
        message += "- and _, such as a1"
        raise InputError(message)
    return annotator


def votes_of(
    deck: Deck, screen: Screen, answers: Sequence[bool], *, seconds: float, simulated: bool = False
) -> list[Vote]:
    """The nine votes of a screen.

    Parameters
    ----------
    answers : nine, by place: whether the image was said to be generated
    seconds : from showing the screen to its submission

    Raises
    ------
    InputError
        If the screen is of another deck, the pseudonym is none, or there are not nine answers.
    """
    check_annotator(screen.annotator)
    if screen.deck != deck.sha256:
        message = (
            f"this screen is of deck {screen.deck[:12]}, but the deck is {deck.sha256[:12]} now; ask for a new one"
        )
        raise InputError(message)
    if len(answers) != len(screen.rows):
        message = f"found {len(answers)} answers, expected one for each of the {len(screen.rows)} images"
        raise InputError(message)
    return [
        Vote(
            deck=deck.sha256,
            deck_name=deck.name,
            model=deck.model,
            annotator=screen.annotator,
            mode=screen.mode,
            screen=screen.number,
            place=place,
            image=int(row),
            truth=bool(deck.generated[row]),
            answer=bool(answer),
            seconds=round(min(max(float(seconds), 0.0), MOST_SECONDS), 3),
            simulated=simulated,
        )
        for place, (row, answer) in enumerate(zip(screen.rows, answers, strict=True))
    ]


class VoteLog:
    """The one writer of a file of votes; threads may share it.

    Opening it locks the file against a second writer, makes it if there is none, and sets a torn last line aside in
    ``NAME.torn`` beside it (``repaired`` says so, and so does standard error). The lock goes with the process, however
    that ends.

    Parameters
    ----------
    path : the file, such as ``annotations/embedded/votes.jsonl``
    simulated : whether it holds simulated votes; a file holds those or people's

    Raises
    ------
    InputError
        If another server writes the file, it cannot be written, or a line in it is no vote.
    """

    def __init__(self, path: Path, *, simulated: bool = False) -> None:
        self.path, self.simulated = path, simulated
        self.repaired = ""
        self._lock = threading.Lock()
        self._votes: dict[Person, dict[Place, Vote]] = {}
        self._size = 0  # of the file, in bytes: whole lines only
        self._torn = False  # whether a failed write could not be taken back yet
        with ExitStack() as stack:  # undone if opening fails half-way
            stack.enter_context(locked(_beside(path, "lock"), f"a server that writes {path}"))
            try:
                self._file = _opened(path)
                stack.callback(os.close, self._file)
                self._load()
            except OSError as error:
                message = f"{path}: cannot be opened for writing ({error.strerror}), so votes could not be saved"
                raise InputError(message) from error
            self._held = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let another server write the file; no vote can be added any more."""
        with self._lock:
            self._file = -1  # the number may soon be another file's
            self._held.close()

    def add(self, votes: Sequence[Vote]) -> int:
        """Append those votes that are not there yet, in one write and an fsync; how many were new.

        Of two votes at the same place (deck, annotator, mode, screen, place) the first stands, whatever the
        second says.

        Raises
        ------
        InputError
            If they could not be saved (a full disk), something else changed the file, or the votes are simulated and
            the file is people's, or the other way round. Then none of them is in the file.
        """
        for vote in votes:
            _check_kind(str(self.path), vote, simulated=self.simulated)
        with self._lock:
            new: dict[tuple[Person, Place], Vote] = {}
            for vote in votes:
                if vote.at not in self._votes.get(vote.person, {}):
                    new.setdefault((vote.person, vote.at), vote)
            if new:
                self._append(b"".join(_line(vote) for vote in new.values()))
            for vote in new.values():
                self._votes.setdefault(vote.person, {})[vote.at] = vote
            return len(new)

    def answered(self, deck: str, annotator: str, mode: Mode) -> dict[int, list[Vote]]:
        """Votes of this annotator on this deck in this mode: screen -> votes in order of their places.

        A server that was killed while writing may have left a screen with fewer than nine.
        """
        with self._lock:
            mine = sorted(self._votes.get((deck, annotator, mode), {}).items())
        screens: dict[int, list[Vote]] = {}
        for (number, _), vote in mine:
            screens.setdefault(number, []).append(vote)
        return screens

    def next_screen(self, deck: str, annotator: str, mode: Mode) -> int:
        """Number of the first screen that does not have its nine votes yet."""
        done = self.answered(deck, annotator, mode)
        return next(number for number in range(len(done) + 1) if len(done.get(number, ())) < N_SHOWN)

    # ---- the file ----

    def _load(self) -> None:
        """Read all votes."""
        self._repair()
        content = self.path.read_bytes()
        for vote in _parsed(self.path, content, simulated=self.simulated):
            self._votes.setdefault(vote.person, {})[vote.at] = vote
        self._size = len(content)

    def _repair(self) -> None:
        """Complete a last line without its end, or set it aside if it is torn."""
        whole, tail = _split(self.path.read_bytes())
        if not tail:
            return
        if _is_vote(tail):  # an editor that ends no last line
            os.write(self._file, b"\n")
            self.repaired = f"{self.path}: its last line had no end, which was added"
        else:
            aside = _beside(self.path, "torn")
            _append_to(aside, tail + b"\n")  # first: it may be somebody's work
            os.ftruncate(self._file, len(whole))
            self.repaired = f"{self.path}: its last line was torn, by a server that was killed while writing, before "
            self.repaired += f"it told anybody that this vote was saved; its {len(tail)} bytes were moved to {aside}"
        os.fsync(self._file)
        print(f"note: {self.repaired}", file=sys.stderr)

    def _append(self, lines: bytes) -> None:
        """Write whole lines durably, or leave the file as it was."""
        self._check_unchanged()
        try:
            written = os.write(self._file, lines)
            while written < len(lines):  # a full disk takes a part, and says why when asked again
                written += os.write(self._file, lines[written:])
            os.fsync(self._file)
        except BaseException as error:
            self._torn = True
            self._take_back()
            if isinstance(error, OSError):
                message = f"{self.path}: the votes could not be saved ({error.strerror}); none of them was kept: "
                message += "make room on the disk, then submit them again"
                raise InputError(message) from error
            raise
        self._size += len(lines)

    def _take_back(self) -> None:
        """Cut off what a failed write has left; if even that fails, before the next write."""
        try:
            os.ftruncate(self._file, self._size)
            os.fsync(self._file)
            self._torn = False
        except OSError as error:
            print(f"note: {self.path}: half a line could not be cut off ({error.strerror})", file=sys.stderr)

    def _check_unchanged(self) -> None:
        """Refuse to write into a file that is no longer under this name, or that has grown or shrunk by itself."""
        if self._file < 0:
            message = f"{self.path}: closed, so votes cannot be saved; start the server again"
            raise InputError(message)
        if self._torn:
            self._take_back()
        try:
            mine, there = os.fstat(self._file), self.path.stat()
        except OSError as error:
            message = f"{self.path}: gone ({error.strerror}), so votes cannot be saved; restart the server"
            raise InputError(message) from error
        if not os.path.samestat(mine, there) or mine.st_size != self._size:
            message = f"{self.path}: changed by something else (an editor, git) while the server had it open, so votes "
            message += "cannot be saved; restart the server"
            raise InputError(message)


def read_votes(path: Path, *, simulated: bool = False) -> pd.DataFrame:
    """All votes of a file, a row each in the order of the file; columns are the fields of :class:`Vote`.

    Raises
    ------
    InputError
        If the file is missing, or a line is no vote, is simulated (where people's are expected), or repeats another.
    """
    try:
        whole, tail = _split(path.read_bytes())
    except OSError as error:
        message = f"{path}: cannot be read ({error.strerror}); make it an empty file if nobody has voted"
        raise InputError(message) from error
    if tail:  # of an editor, or torn
        whole += tail + b"\n"
    votes = list(_parsed(path, whole, simulated=simulated))
    frame = pd.DataFrame([[getattr(vote, name) for name in COLUMNS] for vote in votes], columns=list(COLUMNS))
    return frame.astype(dict.fromkeys(("screen", "place", "image"), "int64") | _TYPES)


_TYPES = dict.fromkeys(("truth", "answer", "simulated"), "bool") | {"seconds": "float64"}


def _parsed(path: Path, lines: bytes, *, simulated: bool) -> Iterator[Vote]:
    """The votes of whole lines, checked."""
    seen: dict[tuple[Person, Place], int] = {}
    for number, line in enumerate(lines.split(b"\n")[:-1], start=1):
        where = f"{path}, line {number}"
        try:
            vote = _VOTE.validate_json(line)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            place = ".".join(map(str, problem["loc"])) or "the line"
            message = f"{where}: not a vote: {place}: {problem['msg']}, found {reprlib.repr(problem['input'])}; remove "
            message += "the line, or take the file from Git (start the server once if only the last line is torn)"
        else:
            _check_kind(where, vote, simulated=simulated)
            if (first := seen.setdefault((vote.person, vote.at), number)) == number:
                yield vote
                continue
            message = (
                f"{where}: a second vote of {vote.annotator} at place {vote.place} of screen {vote.screen}, after "
            )
            message += f"that of line {first}; remove one of them"
        raise InputError(message)


def _check_kind(where: str, vote: Vote, *, simulated: bool) -> None:
    if vote.simulated != simulated:
        kinds = {True: "simulated", False: "people's"}
        message = (
            f"{where}: {kinds[vote.simulated]} votes do not belong among {kinds[simulated]} votes; keep them apart"
        )
        raise InputError(message)


def _line(vote: Vote) -> bytes:
    return _VOTE.dump_json(vote) + b"\n"


def _split(content: bytes) -> tuple[bytes, bytes]:
    """Whole lines, and what stands after the last line end."""
    end = content.rfind(b"\n") + 1
    return content[:end], content[end:]


def _is_vote(line: bytes) -> bool:
    try:
        _VOTE.validate_json(line)
    except ValidationError:
        return False
    return True


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f"{path.name}.{what}")


def _opened(path: Path) -> int:
    """A file descriptor that appends; the file's entry in its folder is on the disk."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return file


def _append_to(path: Path, content: bytes) -> None:
    with path.open("ab") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
