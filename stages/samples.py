"""Stage `samples`: pictures of a generator, their nearest training images, and distances to more and more samples."""

from pathlib import Path

from pipeline.core import compute, params, records, stage
from pipeline.core.scratch import scratch
from pipeline.core.store import open_set, write_arrays
from pipeline.internals import frozen, samples


def main(params_file: Path, images: Path, model: Path, out: Path, distances: Path, nearest: Path, sheet: Path) -> None:
    """Write samples of MODEL to OUT, DISTANCES and NEAREST against the set IMAGES, and the pictures of a SHEET."""
    config = params.load(params_file, samples.Samples, own="internals.samples")
    reference = params.load(params_file, frozen.Reference, own="internals.reference")
    machine = params.load(params_file, compute.Compute, own="compute")
    compute.set_up(machine)
    image_set = open_set(images)
    generator = frozen.frozen_generator(model, reference, machine)
    discriminator = frozen.frozen_discriminator(model, image_set, reference, machine)
    shown = samples.first_samples(generator, config.seed, max(config.n_shown, config.n_nearest))
    inputs = {"script": Path("stages/samples.py"), "data": [images, model], "config": config, "reference": reference}
    inputs |= compute.record(machine)
    with scratch(stage.name(f"samples@{model.name}"), **inputs) as folder:
        near = shown[: config.n_nearest]
        checked = samples.memorisation_check(near, image_set, discriminator, config, machine, folder)
        write_arrays(out, images=shown[: config.n_shown])
        records.write_parquet(distances, samples.distances(generator, image_set, config, machine, folder))
        records.write_parquet(nearest, checked.table)
        write_arrays(sheet, images=checked.sheet)
    stage.counted(samples=config.n_samples[-1], training_images=len(image_set.rows("train")))


if __name__ == "__main__":
    stage.run(main)
