"""Stage `part_detector`: learn to find windows and beds, from rooms that know where theirs are."""

from pathlib import Path

from pipeline.core import compute, params, records, stage
from pipeline.core.store import open_set
from pipeline.internals import part_detector


def main(params_file: Path, images: Path, out: Path, out_accuracy: Path) -> None:
    """Train on the image set IMAGES; write the model folder OUT, and what it gets right to OUT_ACCURACY."""
    config = params.load(params_file, part_detector.PartDetector, own="internals.part_detector")
    machine = params.load(params_file, compute.Compute, own="compute")
    compute.set_up(machine)
    image_set = open_set(images)
    made = part_detector.train_detectors(image_set, config, machine) if part_detector.has_boxes(image_set) else None
    part_detector.write_detectors(out, image_set, config, machine, made)
    table = part_detector.accuracy(made[0], image_set) if made else part_detector.no_accuracy()
    records.write_parquet(out_accuracy, table)
    stage.counted(images=len(part_detector.ROLES) * config.steps * config.batch_size if made else 0)


if __name__ == "__main__":
    stage.run(main)
