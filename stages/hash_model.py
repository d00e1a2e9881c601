"""Stage `hash_model`: fit the autoencoder whose binarised code finds near-duplicates (DCGAN, section 4.1)."""

from dataclasses import asdict
from pathlib import Path

from pipeline.core import compute, params, stage
from pipeline.core.scratch import scratch
from pipeline.core.store import open_set
from pipeline.models import store
from pipeline.training import hash_model


def main(params_file: Path, images: Path, out: Path) -> None:
    """Train on the image set IMAGES; write the model folder OUT."""
    config = params.load(params_file, hash_model.HashModel, own="hash_model")
    machine = params.load(params_file, compute.Compute, own="compute")
    compute.set_up(machine)
    image_set = open_set(images)
    record = compute.record(machine) | {"precision": "fp32"}  # whatever compute.precision says
    script = Path("stages/hash_model.py")
    with scratch(stage.name("hash_model"), script=script, data=[images], config=config, **record) as folder:
        trained = hash_model.train(image_set, config, machine, folder)
        stage.counted(images=config.epochs * len(image_set.rows(config.split)))
        run = {"params": asdict(config), "steps": trained.steps, "n_images": len(image_set.rows(config.split))}
        store.write_model(out, trained.tensors, run | record, {"history": trained.history})


if __name__ == "__main__":
    stage.run(main)
