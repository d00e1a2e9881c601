"""Stage `forget_windows`: drop the generator's window maps, draw the same z again (DCGAN, figure 6)."""

from pathlib import Path

from pipeline.core import compute, params, records, stage
from pipeline.core.store import open_set, write_arrays
from pipeline.internals import forgetting
from pipeline.internals.annotations import read_boxes
from pipeline.internals.frozen import Reference, check_size, frozen_generator
from pipeline.internals.part_detector import read_detectors


def main(
    params_file: Path,
    images: Path,
    model: Path,
    detector: Path,
    annotations: Path,
    out: Path,
    out_forgetting: Path,
    out_classifier: Path,
) -> None:
    """Windows of samples of MODEL are those of ANNOTATIONS, else what DETECTOR finds; MODEL was trained on IMAGES."""
    config = params.load(params_file, forgetting.ForgetWindows, own="internals.forget_windows")
    reference = params.load(params_file, Reference, own="internals.reference")
    machine = params.load(params_file, compute.Compute, own="compute")
    compute.set_up(machine)
    generator = frozen_generator(model, reference, machine)
    check_size(generator.architecture, open_set(images), model)
    boxes = read_boxes(annotations, generator=generator, n_images=config.n_labelled)
    finds = read_detectors(detector, machine)
    found = forgetting.forget_windows(generator, boxes and boxes.boxes, finds, config)
    write_arrays(out, **found.pictures)
    records.write_parquet(out_forgetting, found.forgetting)
    records.write_parquet(out_classifier, found.classifier)
    stage.counted(images=len(found.forgetting) * config.n_judged)


if __name__ == "__main__":
    stage.run(main)
