"""Raw archives to image sets, one function per dataset."""

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from annotated_types import Ge

from pipeline.core.errors import InputError
from pipeline.core.params import section
from pipeline.core.store import no_rejects, write_set
from pipeline.datasets import idx
from pipeline.datasets.splits import stratified_split

MNIST_CLASSES = 10


@section
class MnistSplits:
    """``assemble.mnist``: sizes of the splits. ``test_from: archive`` takes the archive's own test files."""

    seed: int
    test_from: Literal["archive", "split"]
    stratified: bool
    n_train: Annotated[int, Ge(1)]
    n_validation: Annotated[int, Ge(1)]
    n_test: Annotated[int, Ge(1)]


def assemble_mnist(raw: Path, out: Path, splits: MnistSplits) -> None:
    """MNIST's IDX files -> image set N x 28 x 28 x 1 (DCGAN appendix: 10,000 validation digits off the training set).

    Raises
    ------
    InputError
        If images and labels do not belong together, a label is outside 0..9, or the splits do not add up.
    """
    images, labels = _read_pair(raw, "train")
    split = stratified_split(
        labels,
        {"train": splits.n_train, "validation": splits.n_validation}
        | ({"test": splits.n_test} if splits.test_from == "split" else {}),
        seed=splits.seed,
        stratified=splits.stratified,
        where="params, assemble.mnist",
    )
    source = np.full(len(images), "train-images", dtype=object)
    number = np.arange(len(images))
    if splits.test_from == "archive":
        test_images, test_labels = _read_pair(raw, "t10k")
        if len(test_images) != splits.n_test:
            message = f"{raw}: the archive has {len(test_images)} test digits, assemble.mnist.n_test is {splits.n_test}"
            raise InputError(message)
        images, labels = np.concatenate([images, test_images]), np.concatenate([labels, test_labels])
        split = np.concatenate([split, np.full(len(test_images), "test", dtype=object)])
        source = np.concatenate([source, np.full(len(test_images), "t10k-images", dtype=object)])
        number = np.concatenate([number, np.arange(len(test_images))])
    index = pd.DataFrame(
        {
            "key": [f"{where}/{row:05d}" for where, row in zip(source, number, strict=True)],
            "split": split.astype(str),
            "label": labels.astype(np.int64),
            "source": source.astype(str),
        }
    )
    write_set(out, images[..., None], index, no_rejects())


def _read_pair(raw: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    image_file, label_file = raw / f"{part}-images-idx3-ubyte", raw / f"{part}-labels-idx1-ubyte"
    for file in (image_file, label_file):
        if not file.is_file():
            message = f"{file}: missing; run dvc repro fetch@mnist"
            raise InputError(message)
    images = idx.decode(idx.read_bytes(image_file), image_file)
    labels = idx.decode(idx.read_bytes(label_file), label_file)
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        message = (
            f"{raw}: {part} images have shape {images.shape}, labels {labels.shape}; one label an image is expected"
        )
        raise InputError(message)
    wrong = np.flatnonzero(labels >= MNIST_CLASSES)
    if len(wrong):
        message = f"{label_file}: label {labels[wrong[0]]} at row {wrong[0]}; expected 0..{MNIST_CLASSES - 1}"
        raise InputError(message)
    return images, labels
