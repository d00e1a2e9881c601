"""Linear L2-SVMs on features: DCGAN's Table 1 (all labels, and few a class) and Table 2 (few labels).

C is the one with the fewest errors on validation images, which no classifier was fitted on; test images are judged
afterwards, at that C alone.
"""

# ruff: noqa: N806 - C and X are scikit-learn's names
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import torch
from annotated_types import Ge, Gt, MinLen

from pipeline.core.compute import Compute
from pipeline.core.errors import InputError
from pipeline.core.files import whole_file, write_text
from pipeline.core.params import section
from pipeline.core.progress import Progress
from pipeline.core.store import ImageSet, write_arrays
from pipeline.datasets.splits import labelled_subset, validation_rows
from pipeline.evaluation.linear_svm import LinearL2SVM
from pipeline.evaluation.neighbours import error_percent

FITS_AT_ONCE = 10  # judged in one reading of the features: one draw at several C, or several draws at the chosen C
FEW_LABELS_RANK = 128  # of the few rows' inner products; more costs time on so small a problem
BLOCK_ROWS = 1024  # features that are copied at once


@section
class Probe:
    """``probe.DATASET`` in params.yaml.

    Attributes
    ----------
    n_validation : training images held out while C is chosen, each class in its share; None where the set has a split
        ``validation``
    C : weights of the loss to choose from, ascending
    tol : of the duality gap, see :class:`LinearL2SVM`
    all_labels : fit on all labels
    labels_per_class : each of them another experiment with that many labels
    draws_to_choose, draws_to_test : random subsets of labels; those to test are fresh ones
    """

    seed: int
    n_validation: Annotated[int, Ge(1)] | None
    C: Annotated[list[Annotated[float, Gt(0)]], MinLen(1)]
    tol: Annotated[float, Gt(0)]
    all_labels: bool
    labels_per_class: list[Annotated[int, Ge(1)]]
    draws_to_choose: Annotated[int, Ge(1)]
    draws_to_test: Annotated[int, Ge(1)]

    def __post_init__(self) -> None:
        check_ascending("C", self.C)
        if len(set(self.labels_per_class)) < len(self.labels_per_class):
            message = f"labels_per_class names a number twice: {self.labels_per_class}"
            raise ValueError(message)
        if not self.all_labels and not self.labels_per_class:
            message = "nothing to fit: all_labels is false and labels_per_class is empty"
            raise ValueError(message)


def check_ascending(name: str, settings: Sequence[float]) -> None:
    """Raise the ValueError of a section whose settings are out of order or repeat."""
    if any(a >= b for a, b in pairwise(settings)):
        message = f"{name} must ascend, found {', '.join(f'{setting:g}' for setting in settings)}"
        raise ValueError(message)


# ---- which images play which part -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some images of one split: their rows, counted within the split, and their labels; int64 (n,) each."""

    split: str
    rows: np.ndarray
    labels: np.ndarray

    def take(self, chosen: np.ndarray) -> "Part":
        """Those at the given positions."""
        return Part(split=self.split, rows=self.rows[chosen], labels=self.labels[chosen])


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The images of a set by their part in choosing and testing.

    Attributes
    ----------
    where : the set, for messages
    pool, validation : fitted on and judged while a setting is chosen; disjoint
    train, test : fitted on and judged afterwards, each of them a whole split; ``train`` holds the pool
    """

    where: str
    pool: Part
    validation: Part
    train: Part
    test: Part

    def splits(self) -> list[str]:
        """Of all parts."""
        return sorted({part.split for part in (self.pool, self.validation, self.train, self.test)})


def parts_of(image_set: ImageSet, *, n_validation: int | None, seed: int) -> Parts:
    """Hold ``n_validation`` training images out, or take the split ``validation`` of the set.

    Raises
    ------
    InputError
        If a split is missing, an image has no label, all have the same one, or too many are to be held out.
    """
    train, test = _labelled(image_set, "train"), _labelled(image_set, "test")
    where = str(image_set.path)
    if len(np.unique(train.labels)) < 2:
        message = f"{where}: all training images have label {train.labels[0]}; a classifier needs two classes"
        raise InputError(message)
    if n_validation is None:
        return Parts(where=where, pool=train, validation=_labelled(image_set, "validation"), train=train, test=test)
    held_out = validation_rows(train.labels, n_validation, seed=seed, stratified=True, where=where)
    pool = np.delete(np.arange(len(train.labels)), held_out)
    return Parts(where=where, pool=train.take(pool), validation=train.take(held_out), train=train, test=test)


def _labelled(image_set: ImageSet, split: str) -> Part:
    labels = image_set.labels(image_set.rows(split))
    if (labels < 0).any():
        message = (
            f"{image_set.path}: {np.sum(labels < 0)} of {len(labels)} images in split '{split}' have no label; "
            "a classifier needs a set that is labelled throughout"
        )
        raise InputError(message)
    return Part(split=split, rows=np.arange(len(labels)), labels=labels)


# ---- rows of results ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Row:
    """One fitted classifier and what it was judged by.

    Attributes
    ----------
    purpose : whether validation or test images were judged
    labels_per_class : 0 = all labels
    n_labels : fitted on
    setting : C of the SVM, k of nearest neighbours
    draw : number of the labelled subset, see ``labelled_subset``; 0 where all labels are used
    n_images : judged
    """

    purpose: Literal["choose", "test"]
    labels_per_class: int
    n_labels: int
    setting: float
    draw: int
    error_percent: float
    n_images: int


class Ledger:
    """Finished units of work and their rows, in a file that is replaced whole: a killed run goes on behind them."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._units: dict[str, list[dict[str, Any]]] = json.loads(file.read_text("utf-8")) if file.exists() else {}

    def __contains__(self, unit: str) -> bool:
        return unit in self._units

    def add(self, unit: str, rows: Iterable[Row]) -> None:
        """Keep the rows of one more unit."""
        self._units[unit] = [asdict(row) for row in rows]
        write_text(self._file, json.dumps(self._units))

    def rows(self, begin: str = "") -> list[Row]:
        """Of the units whose names begin so, in the order in which they were added."""
        return [Row(**row) for unit, rows in self._units.items() if unit.startswith(begin) for row in rows]


def chosen_setting(rows: Iterable[Row]) -> float:
    """The setting with the smallest mean error on validation images, the smallest setting among equals."""
    errors: dict[float, list[float]] = {}
    for row in rows:
        if row.purpose == "choose":
            errors.setdefault(row.setting, []).append(row.error_percent)
    # rounded: equal numbers of errors in another order have sums that differ in the last bit
    return min(errors, key=lambda setting: (round(float(np.mean(errors[setting])), 9), setting))


def result_table(rows: Iterable[Row], *, n_features: int, max_feature_units: int) -> pd.DataFrame:
    """One line a row; ``n_features`` and ``max_feature_units`` are of the features, the same in each."""
    frame = pd.DataFrame([asdict(row) for row in rows])
    return frame.assign(n_features=n_features, max_feature_units=max_feature_units)


# ---- few labels -----------------------------------------------------------------------------------------------------

Judge = Callable[[Part, Sequence[np.ndarray], Sequence[float], Part], list[list[float]]]
"""(fitted on, draws: positions in it, settings, judged) -> error in per cent: for each draw, for each setting."""


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Random subsets of labels: numbers 0 to ``to_choose`` to choose a setting, the next ``to_test`` to test it."""

    seed: int
    per_class: int
    to_choose: int
    to_test: int


def few_labels(parts: Parts, draws: Draws, settings: Sequence[float], judge: Judge, ledger: Ledger) -> None:
    """Choose a setting by its mean validation error over some draws of labels, then test it on fresh draws.

    Rows go to the ledger; units that it holds already are not computed again.

    Raises
    ------
    InputError
        If a class has fewer images than labels are asked for.
    """
    name = f"{draws.per_class} labels per class"
    total = draws.to_choose * len(settings) + draws.to_test
    with Progress(name, total=total, unit="fits", done=len(ledger.rows(name))) as progress:

        def judged(purpose: Literal["choose", "test"], numbers: range, settings: Sequence[float]) -> None:
            fitted, images = (parts.pool, parts.validation) if purpose == "choose" else (parts.train, parts.test)
            at_once = max(1, FITS_AT_ONCE // len(settings))
            for start in range(numbers.start, numbers.stop, at_once):
                unit, some = f"{name}, draw {start}", range(start, min(start + at_once, numbers.stop))
                if unit in ledger:
                    continue
                subsets = [
                    labelled_subset(fitted.labels, draws.per_class, seed=draws.seed, where=parts.where, draw=draw)
                    for draw in some
                ]
                errors = judge(fitted, subsets, settings, images)
                rows = [
                    Row(
                        purpose=purpose,
                        labels_per_class=draws.per_class,
                        n_labels=len(subset),
                        setting=float(setting),
                        draw=draw,
                        error_percent=error,
                        n_images=len(images.labels),
                    )
                    for draw, subset, of_draw in zip(some, subsets, errors, strict=True)
                    for setting, error in zip(settings, of_draw, strict=True)
                ]
                ledger.add(unit, rows)
                progress.advance(len(rows))

        judged("choose", range(draws.to_choose), settings)
        best = chosen_setting(ledger.rows(name))
        judged("test", range(draws.to_choose, draws.to_choose + draws.to_test), [best])


# ---- support vector machines ----------------------------------------------------------------------------------------


def probe(
    features: Mapping[str, np.ndarray], parts: Parts, config: Probe, compute: Compute, scratch: Path
) -> list[Row]:
    """Fit and judge all that the section asks for; resumes from what ``scratch`` holds.

    Parameters
    ----------
    features : of each split in ``parts``: float16 or float32 memory map (n_images, n_features), rows as in the set;
        never brought into memory whole

    Raises
    ------
    InputError
        If a class has fewer images than labels are asked for.
    """
    ledger = Ledger(scratch / "rows.json")
    for per_class in config.labels_per_class:  # a number too large should be said before the long fits
        for fitted in (parts.pool, parts.train):
            labelled_subset(fitted.labels, per_class, seed=config.seed, where=parts.where)
    if config.all_labels:
        _all_labels(features, parts, config, compute, scratch, ledger)
    for per_class in config.labels_per_class:
        draws = Draws(
            seed=config.seed, per_class=per_class, to_choose=config.draws_to_choose, to_test=config.draws_to_test
        )
        few_labels(parts, draws, config.C, _svm_judge(features, config, compute), ledger)
    return ledger.rows()


def _svm_judge(features: Mapping[str, np.ndarray], config: Probe, compute: Compute) -> Judge:
    """Fit on the features of a few rows, which are brought into memory as float32."""

    def judge(fitted: Part, draws: Sequence[np.ndarray], settings: Sequence[float], judged: Part) -> list[list[float]]:
        models: list[LinearL2SVM] = []
        for subset in map(fitted.take, draws):
            X = features[subset.split][subset.rows].astype(np.float32)
            svm = LinearL2SVM(tol=config.tol, rank=FEW_LABELS_RANK, device=compute.device)
            models += svm.fit_path(X, subset.labels, settings)
        predicted = predictions(models, features[judged.split], judged.rows, compute.device)
        errors = [error_percent(of_model, judged.labels) for of_model in predicted]
        return [errors[start : start + len(settings)] for start in range(0, len(errors), len(settings))]

    return judge


class _ContinuedSVM(LinearL2SVM):
    """Begins a path where another process ended its own, so that a resumed run ends in the same bytes.

    ``gram_rows`` must be 0: a path in another basis would also stand somewhere in that one.
    """

    stands_at: tuple[np.ndarray, np.ndarray, float] | None = None  # coef_, intercept_ and C of the last fit

    def _path(self, X: Any, y: Any, Cs: Sequence[float]) -> Any:  # noqa: N803
        path = super()._path(X, y, Cs)
        if self.stands_at is not None:
            coef, intercept, path.last_C = self.stands_at
            path.w = torch.from_numpy(np.column_stack([coef, intercept])).to(self.device)
        return path


def _all_labels(
    features: Mapping[str, np.ndarray], parts: Parts, config: Probe, compute: Compute, scratch: Path, ledger: Ledger
) -> None:
    """Fit on the pool at each C and judge the validation images; fit on all training images at the chosen C."""
    first = len(ledger.rows("all labels, C"))

    def row(purpose: Literal["choose", "test"], model: LinearL2SVM, fitted: Part, judged: Part) -> Row:
        (predicted,) = predictions([model], features[judged.split], judged.rows, compute.device)
        return Row(
            purpose=purpose,
            labels_per_class=0,
            n_labels=len(fitted.labels),
            setting=float(model.C),
            draw=0,
            error_percent=error_percent(predicted, judged.labels),
            n_images=len(judged.labels),
        )

    svm = _ContinuedSVM(tol=config.tol, gram_rows=0, device=compute.device)
    done = len(ledger.rows("all labels"))
    with Progress("all labels", total=len(config.C) + 1, unit="fits", done=done) as progress:
        if first < len(config.C):
            if first:
                with np.load(_weights(scratch, first - 1), allow_pickle=False) as kept:
                    svm.stands_at = (kept["coef"], kept["intercept"], config.C[first - 1])
            X = _gathered(features[parts.pool.split], parts.pool.rows, scratch / "pool.npy")
            for number, model in enumerate(svm.fit_path(X, parts.pool.labels, config.C[first:]), first):
                write_arrays(_weights(scratch, number), coef=model.coef_, intercept=model.intercept_)
                ledger.add(f"all labels, C {number}", [row("choose", model, parts.pool, parts.validation)])
                progress.advance(1)
        if "all labels, test" not in ledger:
            svm = LinearL2SVM(
                C=chosen_setting(ledger.rows("all labels, C")), tol=config.tol, gram_rows=0, device=compute.device
            )
            svm.fit(features[parts.train.split], parts.train.labels)
            ledger.add("all labels, test", [row("test", svm, parts.train, parts.test)])
            progress.advance(1)


def _weights(scratch: Path, number: int) -> Path:
    return scratch / f"weights-{number}.npz"


def _gathered(features: np.ndarray, rows: np.ndarray, file: Path) -> np.ndarray:
    """Some rows of a memory map as another memory map: a copy in memory could be gigabytes."""
    if np.array_equal(rows, np.arange(len(features))):
        return features
    if not file.exists():
        header = {"descr": features.dtype.str, "fortran_order": False, "shape": (len(rows), features.shape[1])}
        with whole_file(file) as partial, partial.open("wb") as out:
            np.lib.format.write_array_header_1_0(out, header)
            for start in range(0, len(rows), BLOCK_ROWS):
                out.write(np.ascontiguousarray(features[rows[start : start + BLOCK_ROWS]]).data)
    return np.load(file, mmap_mode="r", allow_pickle=False)


def predictions(models: Sequence[LinearL2SVM], features: np.ndarray, rows: np.ndarray, device: str) -> list[np.ndarray]:
    """What each model says of the same rows, in one reading: int64 (n_rows,) each."""
    weights = torch.from_numpy(np.concatenate([model.coef_ for model in models]).astype(np.float32)).to(device)
    shifts = torch.from_numpy(np.concatenate([model.intercept_ for model in models])).to(device)
    scores = np.empty((len(rows), len(weights)))
    for start in range(0, len(rows), BLOCK_ROWS):
        part = slice(start, start + BLOCK_ROWS)
        block = torch.from_numpy(features[rows[part]]).to(device).float()
        scores[part] = ((block @ weights.t()).double() + shifts).cpu().numpy()
    ends = np.cumsum([len(model.coef_) for model in models])[:-1]
    return [
        model.classes_[of_model.argmax(axis=1) if of_model.shape[1] > 1 else (of_model[:, 0] > 0).astype(int)]
        for model, of_model in zip(models, np.split(scores, ends, axis=1), strict=True)
    ]
