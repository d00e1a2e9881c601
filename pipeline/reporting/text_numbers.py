"""Table ``text_numbers``: the numbers in the papers' running text beside what stage ``running_text`` gathered here.

A number that another table has, too, stands there under the same row and column.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline import papers
from pipeline.core.errors import InputError
from pipeline.core.records import ResultRow
from pipeline.papers import Published
from pipeline.reporting.result_files import table
from pipeline.reporting.rows import QUOTED, Extra, Report, joined, quoted, result
from pipeline.reporting.running_text import TYPES, Number
from pipeline.turing import published as turing

NUMBERS = "numbers.parquet"
PUBLISHED = (  # in the order of the papers
    *papers.DATASETS,
    papers.PEOPLE,
    papers.FIRST_SAMPLES,
    papers.LAST_SAMPLES,
    papers.N_FEATURES,
    papers.SVHN_VALIDATION,
    papers.TRIALS,
    papers.WALK_POINTS,
    papers.GUIDED_FEATURES,
    papers.WINDOW_SAMPLES,
    papers.WINDOW_BOXES,
    papers.WINDOW_MAPS,
    papers.NOISE,
    papers.MNIST_VALIDATION,
    papers.SCORE_IMAGES,
    papers.MNIST_SUBSETS,
    papers.CIFAR10_SUBSETS,
    turing.MNIST,
    papers.MNIST_VOTES,
    turing.BEST,
    turing.BEST_ERROR,
    turing.AUTHORS,
    turing.TOP,
    papers.IMAGENET_CLASSES,
)


def text_numbers(results: Path, report: Report) -> list[ResultRow]:
    """Numbers of the running text: every published one in the papers' order, then ours beside them.

    Parameters
    ----------
    results : folder with the parquet of stage ``running_text``

    Raises
    ------
    InputError
        If it is missing or lacks one of the published numbers.
    """
    path = results / NUMBERS
    read = table(path, TYPES)
    if read is None:
        message = f"{path}: missing; run dvc repro running_text"
        raise InputError(message)
    found = {(number.row, number.column): number for number in _numbers(read)}
    places = {(place.row, place.column): place for place in PUBLISHED}
    lacking = [key for key, place in places.items() if place.kind == "ours" and key not in found]
    if lacking:
        told = "; ".join(f"{row}, {column}" for row, column in lacking)
        message = f"{path}: nothing about {told}; run dvc repro running_text"
        raise InputError(message)
    rows = [_row(place, found, report) for place in PUBLISHED]
    return rows + [
        _measured(Extra(row=number.row, column=number.column, unit=number.unit), number, report)
        for key, number in found.items()
        if key not in places
    ]


def _numbers(read: pd.DataFrame) -> Iterable[Number]:
    for row in read.astype(object).to_dict("records"):
        values: dict[str, Any] = {str(name): None if pd.isna(value) else value for name, value in row.items()}
        yield Number(**values)


def _row(place: Published, found: Mapping[tuple[str, str], Number], report: Report) -> ResultRow:
    if place.kind == "published":
        return replace(quoted(place, report.described("cifar10")), note=joined("above 95 %", QUOTED))
    return _measured(place, found[place.row, place.column], report)


def _measured(place: Published | Extra, number: Number, report: Report) -> ResultRow:
    """``yes`` becomes ``reduced`` where the profile's notes tell of a stand-in, or another size was chosen."""
    more = report.notes.get(number.run, "")  # a number that is missing names no run
    given = place.value if isinstance(place, Published) and place.setting else None
    other_size = given is not None and number.measured is not None and not np.isclose(number.measured, given)
    reduced = report.comparable == "yes" and (more or other_size)
    return result(
        place,
        measured=number.measured,
        spread=number.spread,
        spread_over=number.spread_over,
        n_images=number.n_images,
        dataset=report.described(number.dataset),
        comparable="reduced" if reduced else report.comparable,
        note=joined(number.note, more),
    )
