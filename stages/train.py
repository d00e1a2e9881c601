"""Stage `train`: fit the generator and discriminator of one run, for each of its seeds (DCGAN, section 4)."""

import functools
from dataclasses import asdict
from pathlib import Path

from pipeline.core import compute, params, ranks, records, stage
from pipeline.core.scratch import scratch
from pipeline.core.store import ImageSet, open_set, write_arrays
from pipeline.evaluation.digits import validation_score
from pipeline.models import store
from pipeline.training import adversarial
from pipeline.training.curves import training_curves
from pipeline.training.parallel import process_group
from pipeline.training.take_released import take_released


def main(params_file: Path, name: str, images: Path, out: Path, small: Path, samples: Path, curves: Path) -> None:
    """Train run NAME on the image set IMAGES; write the model folder OUT, its SMALL files, SAMPLES and CURVES."""
    run = params.load(params_file, adversarial.Run, shared="train", own=f"train.runs.{name}")
    if ranks.is_first():
        for sentence in params.not_in_force(params_file, own=f"train.runs.{name}", shared="train"):
            print(f"note: {sentence}")
    machine = params.load(params_file, compute.Compute, own="compute")
    compute.set_up(machine)
    image_set = open_set(images)
    record = {
        "stage": "train",
        "run": name,
        "params": asdict(run),
        "processes": ranks.world_size(),
        **compute.record(machine),
    }
    if run.released is not None:
        taken = take_released(run, run.released, f"{params_file}, train.runs.{name}")
        record |= {"steps": 0, "n_images": 0, "released": taken.listing, "discriminator_rows": taken.discriminator_rows}
        if ranks.is_first():
            write(adversarial.nothing_trained(run, taken.tensors), record, out, small, samples, curves)
        return
    with (
        scratch(
            stage.name(f"train@{name}"),
            script=Path("stages/train.py"),
            data=[images],
            run=run,
            processes=ranks.world_size(),
            **compute.record(machine),
        ) as folder,
        process_group(machine),
    ):
        trained = adversarial.train(image_set, run, machine, folder, score_of(run, image_set, machine))
        record |= {"steps": trained.steps, "n_images": len(image_set.rows("train"))}
        if ranks.is_first():
            write(trained, record, out, small, samples, curves)
        stage.counted(images=trained.images)


def score_of(run: adversarial.Run, image_set: ImageSet, machine: compute.Compute) -> adversarial.ScoreFunction | None:
    """How the epoch is chosen, if it is: by validation images, never by the test set."""
    if run.selection is None:
        return None
    validation = image_set.rows("validation")
    return functools.partial(
        validation_score,
        images=image_set.images[validation],
        labels=image_set.labels(validation),
        z_dim=run.architecture.z_dim,
        sizes=run.selection.n_images,
        batch_size=run.selection.batch_size,
        compute=machine,
    )


def write(trained: adversarial.Trained, record: dict, out: Path, small: Path, samples: Path, curves: Path) -> None:
    """The model folder; its small files once more, for the report; samples at fixed z; curves for ``dvc plots``."""
    tables = {"history": trained.history, "validation": trained.validation, "health": trained.health}
    store.write_model(out, trained.tensors, record, tables)
    store.write_record(small, record, tables)
    write_arrays(samples, images=trained.samples, epochs=trained.sample_epochs)
    records.write_csv(curves, training_curves(trained.history))


if __name__ == "__main__":
    stage.run(main, several_processes=True)
