"""A stand-in for the set of real near-duplicates: windows of photographs, altered in its 18 ways, among others."""

from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from annotated_types import Ge

from pipeline.core.errors import InputError
from pipeline.core.files import whole_directory
from pipeline.core.params import section
from pipeline.core.seeding import numpy_stream
from pipeline.datasets.embedded import alterations
from pipeline.datasets.embedded.photos import photographs, resize

CELL_PX = (128, 96)  # width and height in the photograph
WINDOW_PX = (256, 192)  # as kept; the size of the real set's pictures
LEFT_OUT = ("brick", "cell", "page", "text")  # windows of these look like each other
FLAT = 6.0  # grey levels, see _variation: an edge before an even ground is not enough


@section
class NearDuplicates:
    """``fetch.neardup``, rendered: groups of one window in all versions, and windows that belong to no group."""

    seed: int
    n_groups: Annotated[int, Ge(1)]
    n_distractors: Annotated[int, Ge(0)]


def write_near_duplicates(out: Path, near_duplicates: NearDuplicates) -> None:
    """Write ``images/*.jpg`` and ``truth.parquet`` (key: file name, group, alteration) to the folder ``out``.

    No two windows overlap. A distractor has group -1 and alteration "distractor".

    Raises
    ------
    InputError
        If the photographs do not have as many windows.
    """
    windows = distinct_windows(near_duplicates.seed)
    wanted = near_duplicates.n_groups + near_duplicates.n_distractors
    if wanted > len(windows):
        message = (
            f"params, fetch.neardup.rendered: n_groups + n_distractors = {wanted}, the photographs of scikit-image and "
            f"scikit-learn have {len(windows)} windows that do not overlap; lower one of them"
        )
        raise InputError(message)
    truth = []
    with whole_directory(out) as partial:
        (partial / "images").mkdir()
        for number, window in enumerate(windows[:wanted]):
            distractor = number - near_duplicates.n_groups
            if distractor >= 0:
                key = f"d{distractor:03d}.jpg"
                (partial / "images" / key).write_bytes(alterations.jpeg(window, alterations.STORED_QUALITY))
                truth.append((key, -1, "distractor"))
                continue
            for name in alterations.REAL:
                key = f"g{number:03d}_{name}.jpg"
                rng = numpy_stream(near_duplicates.seed, f"near-duplicate/{name}", number)
                (partial / "images" / key).write_bytes(alterations.encoded(name, window, rng))
                truth.append((key, number, name))
        table = pd.DataFrame(truth, columns=["key", "group", "alteration"]).sort_values("key", ignore_index=True)
        table.astype({"group": np.int64}).to_parquet(partial / "truth.parquet", index=False)


def distinct_windows(seed: int) -> list[np.ndarray]:
    """All windows with enough on them, in random order: uint8 (192, 256, 3); they share no pixel of a photograph."""
    windows = []
    for name, photo in photographs().items():
        if name not in LEFT_OUT:
            windows += [resize(cell, *WINDOW_PX) for cell in _cells(photo, numpy_stream(seed, f"windows/{name}"))]
    windows = [window for window in windows if _variation(window) >= FLAT]
    order = numpy_stream(seed, "order of windows").permutation(len(windows))
    return [windows[row] for row in order]


def _cells(photo: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """The photograph cut along a grid, which lies at a random place."""
    (width, height), (tall, wide) = CELL_PX, photo.shape[:2]
    rows, columns = tall // height, wide // width
    top, left = rng.integers(tall - rows * height + 1), rng.integers(wide - columns * width + 1)
    return [
        photo[top + row * height : top + (row + 1) * height, left + column * width : left + (column + 1) * width]
        for row in range(rows)
        for column in range(columns)
    ]


def _variation(window: np.ndarray) -> float:
    """Median over the 12 parts of a window of their standard deviation, in grey levels, at 32 x 24."""
    small = resize(alterations.grey(window)[..., :1], 32, 24).reshape(3, 8, 4, 8)
    return float(np.median(small.std(axis=(1, 3))))
