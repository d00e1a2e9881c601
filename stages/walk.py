"""Stage `walk`: a walk through z (DCGAN, Figure 4), the sizes of its steps, and its animation."""

from pathlib import Path

from pipeline.core import compute, params, records, stage
from pipeline.core.store import open_set, write_arrays
from pipeline.internals import frozen, walk


def main(params_file: Path, images: Path, model: Path, out: Path, table: Path, animation: Path) -> None:
    """Write the frames of a walk of MODEL to OUT, its steps to TABLE; D's statistics are of the set IMAGES."""
    config = params.load(params_file, walk.Walk, own="internals.walk")
    reference = params.load(params_file, frozen.Reference, own="internals.reference")
    machine = params.load(params_file, compute.Compute, own="compute")
    compute.set_up(machine)
    generator = frozen.frozen_generator(model, reference, machine)
    discriminator = frozen.frozen_discriminator(model, open_set(images), reference, machine)
    frames = walk.frames(generator, config)
    write_arrays(out, frames=frames)
    records.write_parquet(table, walk.steps(frames, generator, discriminator, config))
    walk.save_animation(animation, frames)
    stage.counted(images=len(frames))


if __name__ == "__main__":
    stage.run(main)
