"""Stage `train`: what the epoch is chosen by."""

import functools
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.core import params
from pipeline.core.compute import Compute
from pipeline.core.store import ImageSet
from pipeline.training.adversarial import Run
from stages.train import score_of

MACHINE = Compute(device="cpu", threads=1, precision="fp32")
SPLITS = ["train", "validation", "test"] * 4
SET = ImageSet(
    path=Path("made"),
    images=np.arange(12, dtype=np.uint8).reshape(12, 1, 1, 1),
    index=pd.DataFrame({"split": SPLITS, "label": range(12)}),
)


def run_of(root, name):
    return params.load(root / "params.yaml", Run, shared="train", own=f"train.runs.{name}")


def test_the_epoch_is_chosen_by_validation_images(root):
    score = score_of(run_of(root, "dcgan_mnist"), SET, MACHINE)
    assert isinstance(score, functools.partial)
    assert score.keywords["images"].ravel().tolist() == [1, 4, 7, 10]
    assert score.keywords["labels"].tolist() == [1, 4, 7, 10]


def test_without_a_selection_nothing_is_scored(root):
    assert score_of(run_of(root, "dcgan_svhn"), SET, MACHINE) is None
