"""A small file of claims, and results to measure, made in the test."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from pipeline.core.errors import InputError

BOOK = """\
ablations:
  rules:
    seeds: {name: mean, confidence: 0.95, least_pairs: 3}
    intervals: {name: intervals}
  arms:
    short: {like: null, overrides: ['train.epochs=2'], targets: [train@a]}
    strong: {like: short, overrides: ['train.rate=0.9'], targets: []}
  claims:
    rate:
      paper: dcgan
      section: '4'
      sentence: A high rate is worse.
      metric: final_diversity
      of: {run: a}
      unit: share
      base: {arm: short, of: {}}
      ablated: {arm: strong, of: {}}
      claimed: lower
      rule: seeds
      least: 0.1
      note: ''
    runs:
      paper: improved
      section: '3'
      sentence: Run b is better than run a.
      metric: classification_error
      of: {}
      unit: percent_error
      base: {arm: committed, of: {run: a}}
      ablated: {arm: committed, of: {run: b}}
      claimed: lower
      rule: seeds
      least: 1.0
      note: of two runs
  not_tested:
    people:
      paper: improved
      section: '4'
      sentence: People agree.
      reason: nobody was asked
"""


class MadeOutputs:
    """Frames in the place of what stages wrote."""

    def __init__(self, folder: Path, frames: Mapping[str, pd.DataFrame]) -> None:
        self._folder = folder
        for name, frame in frames.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if name.endswith(".csv"):
                frame.to_csv(path, index=False)
            else:
                frame.to_parquet(path, index=False)

    def path(self, name: str) -> Path:
        if not (self._folder / name).is_file():
            message = f"no output {name}"
            raise InputError(message)
        return self._folder / name


def written(folder: Path, text: str = BOOK) -> Path:
    path = folder / "ablations.yaml"
    path.write_text(text)
    return path


def health(diversity: Mapping[int, list[float]], *, split: int | None = None) -> pd.DataFrame:
    """seed -> diversity after epochs 1, 2, ..."""
    rows = [
        {"seed": seed, "epoch": epoch, "diversity": value, "collapsed": value < 0.1}
        for seed, values in diversity.items()
        for epoch, value in enumerate(values, start=1)
    ]
    frame = pd.DataFrame(rows)
    return frame if split is None else frame.assign(split=split)
