"""Result rows of the linear probes, the pixel neighbours and the supervised trials, as tables and figures read them.

A probe's rows: purpose (``choose`` on validation images, ``test``), labels_per_class (0 = all), n_labels, setting (C,
or k of nearest neighbours), draw, error_percent, n_images (judged), n_features, max_feature_units.
"""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from pipeline.core.records import read_parquet
from pipeline.reporting.rows import at_most

# name of a features folder and of its results -> what it is, in the order of the figures
CIFAR10_FEATURES = {
    "cifar10": "D trained on ImageNet",
    "cifar10_dcgan_cifar10": "D trained on CIFAR-10",
    "cifar10_random": "random D",
    "cifar10_kmeans": "K-means",
}
SVHN_FEATURES = {
    "svhn": "D trained on SVHN",
    "svhn_dcgan_imagenet": "D trained on ImageNet",
    "svhn_random": "random D",
}
PIXELS, TRIALS = "pixels", "supervised_cnn"
CIFAR10_PER_CLASS, SVHN_PER_CLASS = 400, 100  # labels a class of the papers' columns
ALL_LABELS = 0  # as labels_per_class


def read(results: Path, names: Iterable[str]) -> dict[str, pd.DataFrame]:
    """The results of those stages that have run, by name, in the order asked for."""
    paths = {name: results / f"{name}.parquet" for name in names}
    return {name: read_parquet(path) for name, path in paths.items() if path.is_file()}


def tested(found: pd.DataFrame, labels_per_class: int) -> pd.DataFrame:
    """The test rows of one number of labels a class, a line a draw: at the chosen setting alone."""
    return _rows(found, "test", labels_per_class)


def chosen_from(found: pd.DataFrame, labels_per_class: int) -> pd.DataFrame:
    """The rows on validation images of one number of labels a class, a line a setting and draw."""
    return _rows(found, "choose", labels_per_class)


def _rows(found: pd.DataFrame, purpose: str, labels_per_class: int) -> pd.DataFrame:
    return found[(found["purpose"] == purpose) & (found["labels_per_class"] == labels_per_class)]


def most_labels(found: pd.DataFrame, nominal: int) -> int | None:
    """The largest number of labels a class that was tested and does not exceed the nominal one."""
    sizes = found.loc[found["purpose"] == "test", "labels_per_class"]
    return at_most(sizes[sizes != ALL_LABELS], nominal)


def ranked(trials: pd.DataFrame) -> pd.DataFrame:
    """The supervised trials, that with the lowest validation error first, the first drawn among equals."""
    return trials.sort_values(["validation_error_percent", "trial"], kind="stable", ignore_index=True)
