"""Reading what the stages left in a results folder: arrays and tables, with their form checked."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.core.errors import InputError
from pipeline.core.records import read_parquet
from pipeline.core.store import read_arrays

NOT_KNOWN = "Nothing is annotated or known here; docs/annotating.md says how to annotate."
NOT_KEPT = "No samples were kept: these networks were released, not trained here."
NOTHING = {"n_shown": NOT_KNOWN, "n_epochs": NOT_KEPT}  # 0 of these in a figure's metrics: why it shows nothing


def why_nothing(metrics: Mapping[str, Any]) -> str | None:
    """Why a figure with these metrics shows nothing; None if it shows something."""
    return next((reason for name, reason in NOTHING.items() if metrics.get(name) == 0), None)


def arrays(path: Path, **dimensions: int) -> dict[str, np.ndarray] | None:
    """The arrays of an npz, each with so many dimensions or of length 0; None if the stage has not run.

    Raises
    ------
    InputError
        If the file is damaged, or an array is missing or has another number of dimensions.
    """
    if not path.is_file():
        return None
    found = read_arrays(path)
    wrong = [
        name for name, n in dimensions.items() if name not in found or (len(found[name]) and found[name].ndim != n)
    ]
    if wrong:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in sorted(found.items())) or "nothing"
        expected = ", ".join(f"{name} with {dimensions[name]} dimensions" for name in wrong)
        message = f"{path}: found {shapes}; expected {expected}; run the stage that writes it again"
        raise InputError(message)
    return found


def table(path: Path, columns: Iterable[str]) -> pd.DataFrame | None:
    """These columns of a parquet; None if the stage has not run.

    Raises
    ------
    InputError
        If it is damaged, or a column is missing.
    """
    if not path.is_file():
        return None
    found, columns = read_parquet(path), list(columns)
    missing = [name for name in columns if name not in found]
    if missing:
        columns_found = ", ".join(map(str, found))
        message = f"{path}: found columns {columns_found}; expected also {', '.join(missing)}; run the stage again"
        raise InputError(message)
    return found[columns]
