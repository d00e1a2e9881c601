"""Stage `pixel_neighbours`: test error of nearest neighbours on pixels from few labels (row KNN of DCGAN's Table 2)."""

from pathlib import Path

from pipeline.core import compute, params, records, stage
from pipeline.core.scratch import scratch
from pipeline.core.store import open_set
from pipeline.evaluation import pixel_neighbours


def main(params_file: Path, images: Path, out: Path) -> None:
    """Classify the test images of the set IMAGES by their nearest among a few labelled training images."""
    config = params.load(params_file, pixel_neighbours.PixelNeighbours, own="pixel_neighbours")
    machine = params.load(params_file, compute.Compute, own="compute")
    compute.set_up(machine)
    image_set = open_set(images)
    inputs = {"script": Path("stages/pixel_neighbours.py"), "data": [images], "config": config}
    inputs |= compute.record(machine)
    with scratch(stage.name("pixel_neighbours"), **inputs) as folder:
        table = pixel_neighbours.pixel_neighbours(image_set, config, machine, folder)
        stage.counted(fits=len(table))
        records.write_parquet(out, table)


if __name__ == "__main__":
    stage.run(main)
