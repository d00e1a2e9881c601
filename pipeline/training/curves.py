"""Curves that ``dvc plots`` draws: small CSV files, kept in Git."""

import numpy as np
import pandas as pd

MOST_ROWS = 200


def training_curves(history: pd.DataFrame) -> pd.DataFrame:
    """Means over the seeds at each logged step, thinned out to at most 200 evenly spaced rows."""
    means = history.drop(columns="seed").groupby("step", sort=True).mean().reset_index()
    kept = np.unique(np.linspace(0, len(means) - 1, min(MOST_ROWS, len(means))).round().astype(int))
    return means.iloc[kept].astype({"epoch": int})
