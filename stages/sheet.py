"""Stage `sheet`: a contact sheet of images that an earlier stage picked."""

from pathlib import Path

from pipeline.core import stage
from pipeline.core.store import read_arrays
from pipeline.reporting.sheets import save_sheet


def main(_params_file: Path, picked: Path, png: Path) -> None:
    """Lay the array `images` of the file PICKED (.npz) out on the sheet PNG, in its order."""
    save_sheet(png, read_arrays(picked)["images"])


if __name__ == "__main__":
    stage.run(main)
