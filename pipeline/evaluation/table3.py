"""What DCGAN's Table 3 and Figure 9 are made of: errors of real and generated digits, and a sheet of each."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.core.compute import Compute
from pipeline.core.store import ImageSet
from pipeline.evaluation.digits import Search, SearchTask, classify_by_images, classify_by_samples
from pipeline.evaluation.generate import CLASSES, sample_batches
from pipeline.evaluation.neighbours import NeighbourSearch
from pipeline.models import store
from pipeline.models.build import build_generator, read_architecture

SHEET_COLUMNS = 7  # Figure 9: ten rows of digits, seven of each


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """The digits of one panel of Figure 9, class by class.

    Attributes
    ----------
    images : uint8 (70, 28, 28, 1)
    labels : int64 (70,), as asked of the generator
    nearest_labels : int64 (70,), of the nearest real training digit
    """

    images: np.ndarray
    labels: np.ndarray
    nearest_labels: np.ndarray


def real_digits(image_set: ImageSet, compute: Compute) -> tuple[pd.DataFrame, Sheet]:
    """Row "Real Data": classify the test digits by the training digits. The sheet shows test digits."""
    train, test = image_set.rows("train"), image_set.rows("test")
    test_images, test_labels = image_set.images[test], image_set.labels(test)
    rows = classify_by_images(test_images, test_labels, image_set.images[train], image_set.labels(train), compute)
    rows = rows.assign(seed=-1, network="real", epoch=-1, n_labels=len(train))
    return rows, _sheet(image_set, test_images, test_labels, compute)


def generated_digits(
    image_set: ImageSet, model: Path, search: Search, compute: Compute, scratch: Path
) -> tuple[pd.DataFrame, Sheet]:
    """Rows "GAN" and "DCGAN": classify by what the generators of each seed's chosen and last epoch make.

    The sheet shows the first seven of each class of the first seed's stream, the very digits that were searched.
    """
    architecture = read_architecture(model)
    train, test = image_set.rows("train"), image_set.rows("test")
    results, sheets = [], []
    for seed in store.seeds(model):
        epochs = store.read_epochs(model, seed)
        for network, sizes in (("generator", search.n_images), ("generator_last", search.n_images_last_epoch)):
            generator = build_generator(architecture).to(compute.device)
            store.read_into(generator, model, f"seed{seed}/{network}")
            task = SearchTask(
                test_images=image_set.images[test],
                test_labels=image_set.labels(test),
                generator=generator,
                z_dim=architecture.z_dim,
                seed=seed,
                stream="neighbours",
            )
            checkpoint = scratch / f"seed{seed}-{network}.safetensors"
            rows = classify_by_samples(task, sizes, search.batch_size, compute, checkpoint)
            results.append(rows.assign(seed=seed, network=network, epoch=epochs[network], n_labels=len(train)))
            if not sheets:
                images, labels = _first_samples(task, search.batch_size, compute)
                sheets.append(_sheet(image_set, images, labels, compute))
    return pd.concat(results, ignore_index=True), sheets[0]


def _first_samples(task: SearchTask, batch_size: int, compute: Compute) -> tuple[np.ndarray, np.ndarray]:
    """As many batches of the task's stream as hold seven of each class."""
    batches = sample_batches(
        task.generator,
        z_dim=task.z_dim,
        seed=task.seed,
        stream=task.stream,
        batch_size=batch_size,
        first=0,
        last=-(-SHEET_COLUMNS * CLASSES // batch_size),
        compute=compute,
    )
    samples = list(batches)
    return np.concatenate([s.images for s in samples]), np.concatenate([s.labels for s in samples])


def _sheet(image_set: ImageSet, images: np.ndarray, labels: np.ndarray, compute: Compute) -> Sheet:
    """The first seven images of every class, and what the nearest real training digit says of each."""
    shown = np.concatenate([np.flatnonzero(labels == label)[:SHEET_COLUMNS] for label in range(CLASSES)])
    train = image_set.rows("train")
    nearest = NeighbourSearch(images[shown], compute)
    nearest.add(image_set.images[train], image_set.labels(train))
    return Sheet(images=images[shown], labels=labels[shown], nearest_labels=nearest.result().label)
