"""Stage `random_features`: the features of a discriminator that nobody trained, beside those of a trained one."""

from pathlib import Path

from pipeline.core import compute, params, stage
from pipeline.core.scratch import scratch
from pipeline.core.store import open_set
from pipeline.evaluation import features
from pipeline.models.build import ColourArchitecture


def main(params_file: Path, run: str, images: Path, out: Path) -> None:
    """Write the features of the image set IMAGES by random weights in the architecture of run RUN to the folder OUT."""
    config = params.load(params_file, features.Features, own="features")
    random = params.load(params_file, features.RandomFeatures, own="random_features")
    architecture = params.load(params_file, ColourArchitecture, own=f"train.runs.{run}.architecture")
    machine = params.load(params_file, compute.Compute, own="compute")
    compute.set_up(machine)
    image_set = open_set(images)
    discriminator = features.random_discriminator(architecture, random)
    inputs = {"script": Path("stages/random_features.py"), "data": [images], "config": config}
    inputs |= {"random": random, "architecture": architecture, **compute.record(machine)}
    with scratch(stage.name(f"random_features@{out.name}"), **inputs) as folder:
        features.discriminator_features(discriminator, image_set, out, config=config, compute=machine, scratch=folder)
        stage.counted(images=len(image_set.images))


if __name__ == "__main__":
    stage.run(main)
