"""Stage `describe`: counts of an image set, what was left out and why, and a contact sheet."""

from pathlib import Path

from pipeline.core import params, records, stage
from pipeline.core.store import open_set
from pipeline.datasets.describe import describe
from pipeline.reporting import sheets


def main(params_file: Path, images: Path, counts: Path, png: Path) -> None:
    """Count the image set IMAGES and lay random images of it out on the sheet PNG."""
    sheet = params.load(params_file, sheets.Sheet, own="sheet")
    image_set = open_set(images)
    records.write_parquet(counts, describe(image_set))
    sheets.save_sheet(png, sheets.random_images(image_set, sheet))


if __name__ == "__main__":
    stage.run(main)
