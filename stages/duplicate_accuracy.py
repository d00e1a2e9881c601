"""Stage `duplicate_accuracy`: what the hash finds of planted near-duplicates, over radius and alteration."""

from pathlib import Path

from pipeline.core import compute, params, records, stage
from pipeline.core.scratch import scratch
from pipeline.core.store import open_set
from pipeline.datasets.dedup import Dedup
from pipeline.evaluation import duplicates
from pipeline.models.hash_autoencoder import read_autoencoder


def main(params_file: Path, images: Path, model: Path, out: Path) -> None:
    """Compare the duplicates that MODEL finds in the image set IMAGES with its truth; no rows if it has none."""
    config = params.load(params_file, duplicates.DuplicateAccuracy, own="duplicate_accuracy")
    threshold = params.load(params_file, Dedup, own="dedup").threshold
    machine = params.load(params_file, compute.Compute, own="compute")
    compute.set_up(machine)
    image_set = open_set(images)
    network = read_autoencoder(model, machine.device)
    inputs = {"script": Path("stages/duplicate_accuracy.py"), "data": [images, model], "config": config}
    inputs |= {"threshold": threshold, **compute.record(machine)}
    with scratch(stage.name(f"duplicate_accuracy@{images.name}"), **inputs) as folder:
        table = duplicates.accuracy(image_set, network, config, threshold=threshold, compute=machine, scratch=folder)
        records.write_parquet(out, table)


if __name__ == "__main__":
    stage.run(main)
