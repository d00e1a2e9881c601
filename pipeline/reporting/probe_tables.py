"""DCGAN's Tables 1 and 2: linear classifiers on features of the discriminator, beside baselines and published rows."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pipeline import papers
from pipeline.core.records import ResultRow
from pipeline.reporting.probe_results import (
    ALL_LABELS,
    CIFAR10_FEATURES,
    CIFAR10_PER_CLASS,
    PIXELS,
    SVHN_FEATURES,
    SVHN_PER_CLASS,
    TRIALS,
    chosen_from,
    most_labels,
    ranked,
    read,
    tested,
)
from pipeline.reporting.rows import NOT_RUN, Extra, Place, Report, joined, quoted, result

N_TRIALS = 64  # DCGAN, Table 2
N_VALIDATION = 10_000  # DCGAN, section 5.2
INTERVAL = 1.96  # standard deviations; the authors' script prints it as +-
D_IMAGENET, D_SVHN = 28_672, 7_168  # features: D's layers of the paper's width, each pooled to 4 x 4 maps
KMEANS_FEATURES = 4 * 4_800  # four quadrants of the 4,800 maps of DCGAN, Table 1
SVHN_DRAWS = 100  # of the labels for the test, in the authors' script
UNKNOWN_PROTOCOL = "the protocol of the quoted number is not known"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A row that a stage measures.

    Attributes
    ----------
    name : of its results
    n_features, n_draws : the paper's or its released code's, the draws of labels those for the test; None where
        neither says
    about : what the classifier saw, for the note
    notes : names under which ``report.notes`` may say more
    """

    name: str
    n_features: int | None
    n_draws: int | None
    about: str
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Column:
    """What a column of a paper promises: labels a class, labels in all, test images; whether accuracy is printed."""

    per_class: int
    n_labels: int
    n_test: int
    accuracy: bool


TABLE1 = {
    papers.KMEANS: Measured(
        name="cifar10_kmeans", n_features=KMEANS_FEATURES, n_draws=None, about="", notes=("cifar10_kmeans",)
    ),
    papers.DCGAN_SVM: Measured(
        name="cifar10", n_features=D_IMAGENET, n_draws=None, about="D of run dcgan_imagenet", notes=("dcgan_imagenet",)
    ),
    "DCGAN trained on CIFAR-10 + L2-SVM": Measured(
        name="cifar10_dcgan_cifar10",
        n_features=D_IMAGENET,
        n_draws=None,
        about="D of run dcgan_cifar10",
        notes=("dcgan_cifar10", "cifar10_dcgan_cifar10"),
    ),
    "Random D + L2-SVM": Measured(
        name="cifar10_random",
        n_features=D_IMAGENET,
        n_draws=None,
        about="D of run dcgan_cifar10 as drawn, untrained",
        notes=("cifar10_random",),
    ),
}
TABLE2 = {
    papers.KNN: Measured(name=PIXELS, n_features=None, n_draws=None, about=UNKNOWN_PROTOCOL, notes=(PIXELS,)),
    papers.DCGAN_SVM: Measured(
        name="svhn",
        n_features=D_SVHN,
        n_draws=SVHN_DRAWS,
        about="D of run dcgan_svhn: the paper does not say on what its own was trained; the authors' later script "
        f"takes SVHN and prints {papers.SVHN_RELEASED.value} ± {papers.SVHN_RELEASED.spread} ({INTERVAL} x)",
        notes=("dcgan_svhn",),
    ),
    papers.SUPERVISED: Measured(name=TRIALS, n_features=None, n_draws=None, about="", notes=(TRIALS,)),
    "DCGAN trained on ImageNet + L2-SVM": Measured(
        name="svhn_dcgan_imagenet",
        n_features=D_IMAGENET,
        n_draws=SVHN_DRAWS,
        about="D of run dcgan_imagenet",
        notes=("dcgan_imagenet", "svhn_dcgan_imagenet"),
    ),
    "Random D + L2-SVM": Measured(
        name="svhn_random",
        n_features=D_SVHN,
        n_draws=SVHN_DRAWS,
        about="D of run dcgan_svhn as drawn, untrained",
        notes=("svhn_random",),
    ),
}
COLUMNS = {
    papers.ACCURACY_FULL: Column(per_class=ALL_LABELS, n_labels=50_000, n_test=10_000, accuracy=True),
    papers.ACCURACY_400: Column(per_class=CIFAR10_PER_CLASS, n_labels=4_000, n_test=10_000, accuracy=True),
    papers.TEST_1000: Column(per_class=SVHN_PER_CLASS, n_labels=1_000, n_test=26_032, accuracy=False),
}
SETS = {"cifar10": "CIFAR-10", "svhn": "SVHN"}  # of the quoted rows, whatever stands in here


def dcgan_table1(results: Path, report: Report) -> list[ResultRow]:
    """DCGAN, Table 1: CIFAR-10 accuracy of a linear L2-SVM on features that were learnt without labels."""
    found = read(results, CIFAR10_FEATURES)
    published = {printed.row for printed in papers.DCGAN_TABLE1}
    extra = [
        Extra(row=row, column=column, unit=unit)
        for row in TABLE1
        if row not in published
        for column, unit in (
            (papers.ACCURACY_FULL, "percent_accuracy"),
            (papers.ACCURACY_400, "percent_accuracy"),
            (papers.MAX_UNITS, "count"),
        )
    ]
    return [_cell(place, TABLE1, found, "cifar10", report) for place in (*papers.DCGAN_TABLE1, *extra)]


def dcgan_table2(results: Path, report: Report) -> list[ResultRow]:
    """DCGAN, Table 2: SVHN test error with 1,000 labels."""
    found = read(results, [*SVHN_FEATURES, PIXELS, TRIALS])
    published = {printed.row for printed in papers.DCGAN_TABLE2}
    extra = [Extra(row=row, column=papers.TEST_1000, unit="percent_error") for row in TABLE2 if row not in published]
    supervised = (
        Extra(row=papers.SUPERVISED, column=papers.TEST_1000, unit="percent_error"),
        Extra(row=papers.SUPERVISED, column="trials", unit="count"),
    )
    return [_cell(place, TABLE2, found, "svhn", report) for place in (*papers.DCGAN_TABLE2, *extra, *supervised)]


def _cell(
    place: Place, table: dict[str, Measured], found: dict[str, pd.DataFrame], dataset: str, report: Report
) -> ResultRow:
    what = report.described(dataset)
    if isinstance(place, papers.Published) and place.row not in table:
        return quoted(place, SETS[dataset])
    measured = table[place.row]
    if measured.name not in found:
        return result(place, dataset=what, comparable=report.comparable, note=NOT_RUN)
    rows = found[measured.name]
    if measured.name == TRIALS:
        return _supervised(place, rows, what, report)
    if place.column == papers.MAX_UNITS:
        return _units(place, rows, measured, what, report)
    return _probed(place, rows, measured, what, report)


def _probed(place: Place, found: pd.DataFrame, measured: Measured, dataset: str, report: Report) -> ResultRow:
    """Mean and spread over the draws of labels, at the setting that the validation images chose."""
    column = COLUMNS[place.column]
    per_class = most_labels(found, column.per_class) if column.per_class else ALL_LABELS
    test = found.head(0) if per_class is None else tested(found, per_class)
    if per_class is None or test.empty:
        asked = f"{column.per_class} labels a class or fewer" if column.per_class else "all labels"
        return result(place, dataset=dataset, comparable=report.comparable, note=f"no classifier was fitted on {asked}")
    errors = test["error_percent"]
    n_labels, n_images = int(test["n_labels"].iloc[0]), int(test["n_images"].iloc[0])
    pixels = measured.name == PIXELS
    n_features = int(test["n_features"].iloc[0])
    whole = (
        (n_labels, n_images) == (column.n_labels, column.n_test)
        and measured.n_features in (None, n_features)
        and measured.n_draws in (None, len(errors))
    )
    mean, spread = float(errors.mean()), float(errors.std(ddof=1)) if len(errors) > 1 else None
    return result(
        place,
        measured=100 - mean if column.accuracy else mean,
        spread=spread,
        spread_over="" if spread is None else "draws",
        n_seeds=None if pixels else 1,
        n_images=n_images,
        n_labels=n_labels,
        dataset=dataset,
        comparable=_comparable(report, whole=whole),
        note=joined(
            _labels(n_labels, per_class) + _instead(n_labels, column.n_labels),
            f"{n_images:,} test images{_instead(n_images, column.n_test)}" if n_images != column.n_test else "",
            f"{_draws(len(errors))}{_instead(len(errors), measured.n_draws)}" if per_class else "",
            "" if spread is None else f"{INTERVAL} x ± is {INTERVAL * spread:.2f}",
            _setting(float(test["setting"].iloc[0]), chosen_from(found, per_class), pixels=pixels),
            f"{n_features:,} {'pixel values' if pixels else 'features'}{_instead(n_features, measured.n_features)}",
            measured.about,
            *(report.notes.get(name, "") for name in measured.notes),
        ),
    )


def _units(place: Place, found: pd.DataFrame, measured: Measured, dataset: str, report: Report) -> ResultRow:
    n_features = int(found["n_features"].iloc[0])
    return result(
        place,
        measured=int(found["max_feature_units"].iloc[0]),
        dataset=dataset,
        comparable=_comparable(report, whole=n_features == measured.n_features),
        note=f"{n_features:,} features in all{_instead(n_features, measured.n_features)}",
    )


def _supervised(place: Place, trials: pd.DataFrame, dataset: str, report: Report) -> ResultRow:
    """The best of the random trials: its validation error, which the paper prints, its test error, or their number."""
    best = ranked(trials).iloc[0]
    n_trials, n_labels = len(trials), int(best["n_labels"])
    n_validation, n_test = int(best["n_validation"]), int(best["n_test"])
    nominal = COLUMNS[papers.TEST_1000]
    whole = (n_labels, n_validation, n_trials) == (nominal.n_labels, N_VALIDATION, N_TRIALS)
    judged = {papers.VALIDATION_1000: ("validation", n_validation), papers.TEST_1000: ("test", n_test)}
    kind, n_images = judged.get(place.column, ("", None))
    whole = whole and (kind != "test" or n_test == nominal.n_test)
    counts = joined(
        f"best of {n_trials} trials on validation images{_instead(n_trials, N_TRIALS)}",
        f"{n_labels:,} labels{_instead(n_labels, nominal.n_labels)}",
        f"{n_validation:,} validation images{_instead(n_validation, N_VALIDATION)}",
        f"{n_test:,} test images{_instead(n_test, nominal.n_test)}" if kind == "test" else "",
    )
    settings = (
        f"trial {best['trial']:.0f}: learning rate {best['learning_rate']:.2g}, beta1 {best['beta1']:g}, "
        f"l2 {best['l2']:.2g}, dropout {best['dropout']:.2g}, batch {best['batch_size']:.0f}, "
        f"initial std {best['initial_std']:.2g}, {'with' if best['batch_norm'] else 'without'} batch norm, "
        f"state after epoch {best['best_epoch']:.0f} of {best['epochs']:.0f}; {best['n_parameters']:,.0f} parameters"
    )
    return result(
        place,
        measured=float(best[f"{kind}_error_percent"]) if kind else n_trials,
        n_images=n_images,
        n_labels=n_labels,
        dataset=dataset,
        comparable=_comparable(report, whole=whole),
        note=joined(counts, settings, report.notes.get(TRIALS, "")) if kind else report.notes.get(TRIALS, ""),
    )


def _comparable(report: Report, *, whole: bool) -> str:
    """The profile's word, but for rows that have less than the paper."""
    return "reduced" if report.comparable == "yes" and not whole else report.comparable


def _labels(n_labels: int, per_class: int) -> str:
    return f"{n_labels:,} labels ({per_class} a class)" if per_class else f"all {n_labels:,} labels"


def _draws(n_draws: int) -> str:
    return "one draw" if n_draws == 1 else f"{n_draws} draws"


def _instead(n: int, nominal: int | None) -> str:
    return "" if nominal in (None, n) else f" instead of {nominal:,}"


def _setting(setting: float, choices: pd.DataFrame, *, pixels: bool) -> str:
    """The chosen C or k, on how much it was chosen, and whether the optimum may lie beyond what was tried."""
    name = "k" if pixels else "C"
    tried = sorted(set(choices["setting"]))
    if len(tried) < 2:
        return f"{name} {setting:g}, the only one tried"
    n_draws, n_images = choices["draw"].nunique(), int(choices["n_images"].iloc[0])
    draws = f" in {n_draws} draws" if n_draws > 1 else ""
    end = {tried[0]: ", the smallest", tried[-1]: ", the largest"}.get(setting, "")
    return f"{name} {setting:g}{end} of {len(tried)}, chosen on {n_images:,} validation images{draws}"
