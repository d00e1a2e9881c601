"""Stage `imagenet128`: the 128 x 128 ImageNet model with the techniques of Improved GAN (section 6.5, figure 6)."""

from dataclasses import asdict
from pathlib import Path

from pipeline.core import compute, params, ranks, records, stage
from pipeline.core.scratch import scratch
from pipeline.core.store import open_set, write_arrays
from pipeline.models import store
from pipeline.training import imagenet128
from pipeline.training.curves import training_curves
from pipeline.training.memory import keep_freed_memory
from pipeline.training.parallel import process_group


def main(params_file: Path, name: str, images: Path, out: Path, small: Path, samples: Path, curves: Path) -> None:
    """Train on the image set IMAGES as run NAME; write the model folder OUT, its SMALL files, SAMPLES and CURVES."""
    run = params.load(params_file, imagenet128.Run, own="imagenet128")
    machine = params.load(params_file, compute.Compute, own="compute")
    compute.set_up(machine)
    keep_freed_memory()
    image_set = open_set(images)
    record = {
        "stage": "imagenet128",
        "run": name,
        "params": asdict(run),
        "processes": ranks.world_size(),
        **compute.record(machine),
    }
    with (
        scratch(
            stage.name(name),
            script=Path("stages/imagenet128.py"),
            data=[images],
            run=run,
            processes=ranks.world_size(),
            **compute.record(machine),
        ) as folder,
        process_group(machine),
    ):
        trained = imagenet128.train(image_set, run, machine, folder)
        record |= {"steps": trained.steps, "n_images": len(image_set.rows("train")), "n_classes": trained.n_classes}
        if ranks.is_first():
            write(trained, record, out, small, samples, curves)
        stage.counted(images=trained.images)


def write(trained: imagenet128.Trained, record: dict, out: Path, small: Path, samples: Path, curves: Path) -> None:
    """The model folder; its small files once more, for the report; samples at fixed z; curves for ``dvc plots``."""
    tables = {"history": trained.history, "validation": trained.validation, "health": trained.health}
    store.write_model(out, trained.tensors, record, tables)
    store.write_record(small, record, tables)
    write_arrays(samples, images=trained.samples, epochs=trained.sample_epochs)
    records.write_csv(curves, training_curves(trained.history))


if __name__ == "__main__":
    stage.run(main, several_processes=True)
