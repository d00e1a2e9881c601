"""Stage `sheet`: a contact sheet of images that an earlier stage picked."""

from pathlib import Path

import numpy as np

from pipeline.core import stage
from pipeline.reporting.sheets import save_sheet


def main(_params_file: Path, picked: Path, png: Path) -> None:
    """Lay the array `images` of the file PICKED (.npz) out on the sheet PNG, in its order."""
    with np.load(picked, allow_pickle=False) as content:
        save_sheet(png, content["images"])


if __name__ == "__main__":
    stage.run(main)
