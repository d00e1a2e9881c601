"""What people's votes say: percentage correct by deck, mode and annotator, beside the paper's numbers."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.core.errors import InputError
from pipeline.core.records import ResultRow, slug
from pipeline.evaluation.intervals import wilson
from pipeline.reporting.rows import QUOTED, Extra, Place, Report, joined, quoted, result
from pipeline.turing.deck import Deck
from pipeline.turing.published import AUTHORS, CORRECT, ERROR, PERCENT, PUBLISHED
from pipeline.turing.rounds import Mode

TITLE = "Visual Turing test: real or generated? (Improved GAN, sections 4 and 6)"
VOTES, SECONDS = "count", "seconds"  # units
PREFIXES: dict[Mode, str] = {"plain": "", "feedback": "feedback_"}  # of the columns
NOBODY = "nobody has voted"
NO_DECK = "no such deck in this profile"
PROTOCOL = "the paper describes neither its page nor its annotators; 3 x 3 screens without feedback are ours"
RANKED = (
    "the best samples are those of the largest KL(p(y|x) || p(y)), by our own classifier where the Inception network "
    "was not run"
)
DEPENDENT = "interval as if the votes were independent, which those of one annotator and those on one image are not"
OTHERS = "Votes on other decks"


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What some votes come to; percentages, and seconds of a screen.

    Attributes
    ----------
    low, high : Wilson's 95 % interval of the percentage correct
    generated, real : percentage of the generated images taken for real, and of the real ones for generated; None
        without votes on such
    spread : sample standard deviation of the percentage correct over the annotators; None of one
    n_images : how many different images were judged
    """

    correct: float
    low: float
    high: float
    generated: float | None
    real: float | None
    seconds: float
    n_votes: int
    n_annotators: int
    n_images: int
    spread: float | None


def summary(votes: pd.DataFrame) -> Summary:
    """Sum up votes on one deck in one mode; at least one."""
    right = votes["truth"] == votes["answer"]
    low, high = wilson(int(right.sum()), len(right))
    shares = right.groupby(votes["annotator"]).mean()
    screens = votes.drop_duplicates(["annotator", "mode", "screen"])  # a screen's votes carry the same seconds
    return Summary(
        correct=100 * float(right.mean()),
        low=100 * low,
        high=100 * high,
        generated=_percent_wrong(right[votes["truth"]]),
        real=_percent_wrong(right[~votes["truth"]]),
        seconds=float(screens["seconds"].median()),
        n_votes=len(votes),
        n_annotators=len(shares),
        n_images=votes["image"].nunique(),
        spread=100 * float(shares.std(ddof=1)) if len(shares) > 1 else None,
    )


def _percent_wrong(right: pd.Series) -> float | None:
    return 100 * float(np.mean(~right)) if len(right) else None


def check_truth(path: Path, decks: Mapping[str, Deck], votes: pd.DataFrame) -> None:
    """Refuse votes that contradict the very deck that they name; ``path`` is their file, for the message.

    Raises
    ------
    InputError
        If the deck has no such image, or says otherwise whether it is generated.
    """
    for deck in decks.values():
        mine = votes[votes["deck"] == deck.sha256]
        inside = mine["image"].to_numpy() < len(deck.images)
        images = np.where(inside, mine["image"].to_numpy(), 0)
        wrong = ~inside | (deck.generated[images] != mine["truth"].to_numpy())
        if wrong.any():
            vote = mine[wrong].iloc[0]
            found = {True: "generated", False: "real"}[bool(vote["truth"])]
            message = f"{path}, line {mine.index[wrong][0] + 1}: image {vote['image']} is called {found}, which deck "
            message += f"{deck.name} of {len(deck.images)} images does not say; remove the line, or take it from Git"
            raise InputError(message)


def table(decks: Mapping[str, Deck], votes: pd.DataFrame, reading: Report) -> list[ResultRow]:
    """The rows of table ``turing``: the paper's numbers, then further columns, then each annotator.

    Parameters
    ----------
    votes : as :func:`pipeline.turing.votes.read_votes` gives them; those on other decks are counted apart
    """
    printed, extras, informed = [], [], _informed(votes)
    for name in dict.fromkeys([*PUBLISHED, *decks]):
        deck = decks.get(name)
        if deck is None:
            unknown = _dataset(name.split("_")[0], reading)
            printed += [_row(place, reading, unknown, note=NO_DECK) for place in PUBLISHED[name]]
            continue
        mine = votes[votes["deck"] == deck.sha256]
        places = PUBLISHED.get(name) or (Extra(row=f"{deck.title} ({name})", column=CORRECT, unit=PERCENT),)
        (printed if name in PUBLISHED else extras).extend(
            _headline(deck, places, mine, informed.loc[mine.index], reading)
        )
        taken = {place.column for place in places}
        extras += [row for mode in PREFIXES for row in _columns(deck, places[0].row, mode, mine, reading, taken)]
        extras += _annotator_rows(deck, places[0].row, mine, reading)
    authors = replace(quoted(AUTHORS, _dataset("cifar10", reading)), note=joined("above 95 %", QUOTED))
    return [*printed, authors, *extras, *_other_rows(decks, votes)]


def _headline(
    deck: Deck, places: Sequence[Place], votes: pd.DataFrame, informed: pd.Series, reading: Report
) -> list[ResultRow]:
    """Rows of the printed numbers: all annotators without feedback; ``informed`` of these votes as ``_informed``."""
    dataset, more = _dataset(deck.dataset, reading), reading.notes.get(deck.model, "")
    plain = votes[votes["mode"] == "plain"]
    if plain.empty:
        note = joined(NOBODY if votes.empty else f"{NOBODY} without feedback", more)
        return [_row(place, reading, dataset, note=note) for place in places]
    whole = summary(plain)
    ranked = RANKED if deck.name == "cifar10_top" else ""
    note = joined(
        _counts(whole), _told(int(informed.sum())), DEPENDENT, PROTOCOL if deck.name in PUBLISHED else "", ranked, more
    )
    values = {CORRECT: whole.correct, ERROR: 100 - whole.correct}
    return [_row(place, reading, dataset, note=note, measured=values[place.column], of=whole) for place in places]


def _informed(votes: pd.DataFrame) -> pd.Series:
    """Whether a vote without feedback came after the same annotator's first with it, on whatever deck."""
    shown = votes["mode"] == "feedback"
    return shown.groupby(votes["annotator"]).cummax().astype(bool) & ~shown  # votes are in the order of the file


def _told(n_informed: int) -> str:
    return f"{n_informed:,} of them by annotators who had been shown mistakes before" if n_informed else ""


def _annotator_rows(deck: Deck, row: str, votes: pd.DataFrame, reading: Report) -> list[ResultRow]:
    """All columns of each annotator, in alphabetical order."""
    return [
        cell
        for annotator, name in _distinct(sorted(votes["annotator"].unique())).items()
        for mode in PREFIXES
        for cell in _columns(
            deck, f"{row}, annotator {name}", mode, votes[votes["annotator"] == annotator], reading, set()
        )
    ]


def _distinct(annotators: Sequence[str]) -> dict[str, str]:
    """A name for each that stays its own as a key of the metrics, where ``A-1`` and ``a_1`` would be the same."""
    seen: Counter[str] = Counter()
    names = {}
    for annotator in annotators:
        seen[slug(annotator)] += 1
        twin = seen[slug(annotator)]
        names[annotator] = annotator if twin == 1 else f"{annotator} (twin {twin})"
    return names


def _columns(
    deck: Deck, row: str, mode: Mode, votes: pd.DataFrame, reading: Report, taken: set[str]
) -> list[ResultRow]:
    """All columns of a mode but those already taken; none if there are no votes."""
    votes = votes[votes["mode"] == mode]
    if votes.empty:
        return []
    whole = summary(votes)
    values = {
        CORRECT: (whole.correct, PERCENT),
        "percent_correct_low": (whole.low, PERCENT),
        "percent_correct_high": (whole.high, PERCENT),
        "percent_error_generated": (whole.generated, PERCENT),
        "percent_error_real": (whole.real, PERCENT),
        "median_seconds_a_screen": (whole.seconds, SECONDS),
        "votes": (whole.n_votes, VOTES),
        "annotators": (whole.n_annotators, VOTES),
    }
    dataset, prefix = _dataset(deck.dataset, reading), PREFIXES[mode]
    note = "mistakes and the running score were shown after each screen" if mode == "feedback" else ""
    return [
        _row(
            Extra(row=row, column=f"{prefix}{column}", unit=unit),
            reading,
            dataset,
            note=joined(_counts(whole), DEPENDENT, note) if column == CORRECT else "",
            measured=value,
            of=whole,
        )
        for column, (value, unit) in values.items()
        if value is not None and f"{prefix}{column}" not in taken
    ]


def _other_rows(decks: Mapping[str, Deck], votes: pd.DataFrame) -> list[ResultRow]:
    """Votes on decks that are not there (any more), counted and named; they enter no other row."""
    others = votes[~votes["deck"].isin({deck.sha256 for deck in decks.values()})]
    if others.empty:
        return []
    names = [
        f"{len(mine)} on {name} {sha256:.12}"
        for (name, sha256), mine in others.groupby(["deck_name", "deck"], sort=True)
    ]
    note = f"not mixed in: {', '.join(names)}; the decks now: "
    note += ", ".join(f"{deck.name} {deck.sha256[:12]}" for deck in decks.values()) or "none"
    place = Extra(row=OTHERS, column="votes", unit=VOTES)
    return [result(place, dataset="", comparable="", note=note, measured=len(others))]


def _row(
    place: Place,
    reading: Report,
    dataset: str,
    *,
    note: str,
    measured: float | None = None,
    of: Summary | None = None,
) -> ResultRow:
    of_percent = place.column.removeprefix(PREFIXES["feedback"]) in (CORRECT, ERROR)
    spread = of.spread if of and of_percent else None
    return result(
        place,
        dataset=dataset,
        comparable="reduced" if of and reading.comparable == "yes" else reading.comparable,  # by PROTOCOL
        note=note,
        measured=measured,
        spread=spread,
        spread_over="annotators" if spread is not None else "",
        n_images=of.n_images if of else None,
    )


def _counts(whole: Summary) -> str:
    annotators = f"{whole.n_annotators} annotator{'s' if whole.n_annotators > 1 else ''}"
    return (
        f"{whole.n_votes:,} votes by {annotators}, 95 % interval of those correct {whole.low:.1f} to {whole.high:.1f} %"
    )


def _dataset(name: str, reading: Report) -> str:
    return reading.datasets.get(name, name)
