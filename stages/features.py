"""Stage `features`: what a trained discriminator's layers give for every image of a set (DCGAN, sections 5.1, 5.2)."""

from pathlib import Path

from pipeline.core import compute, params, stage
from pipeline.core.scratch import scratch
from pipeline.core.store import open_set
from pipeline.evaluation import features
from pipeline.models.build import trained_discriminator


def main(params_file: Path, images: Path, model: Path, out: Path) -> None:
    """Write the features of the image set IMAGES by the discriminator of the model folder MODEL to the folder OUT."""
    config = params.load(params_file, features.Features, own="features")
    machine = params.load(params_file, compute.Compute, own="compute")
    compute.set_up(machine)
    image_set = open_set(images)
    discriminator = trained_discriminator(model)
    inputs = {"script": Path("stages/features.py"), "data": [images, model], "config": config}
    inputs |= compute.record(machine)
    with scratch(stage.name(f"features@{out.name}"), **inputs) as folder:
        features.discriminator_features(discriminator, image_set, out, config=config, compute=machine, scratch=folder)
        stage.counted(images=len(image_set.images))


if __name__ == "__main__":
    stage.run(main)
