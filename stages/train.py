"""Stage `train`: fit the generator and discriminator of one run, for each of its seeds (DCGAN, section 4)."""

import functools
from dataclasses import asdict
from pathlib import Path

from pipeline.core import compute, params, records, stage
from pipeline.core.scratch import scratch
from pipeline.core.store import open_set
from pipeline.evaluation.digits import validation_score
from pipeline.models import store
from pipeline.training import adversarial
from pipeline.training.curves import training_curves


def main(params_file: Path, name: str, images: Path, out: Path, curves: Path) -> None:
    """Train run NAME on the image set IMAGES; write the model folder OUT and the plotted CURVES."""
    run = params.load(params_file, adversarial.Run, shared="train", own=f"train.runs.{name}")
    machine = params.load(params_file, compute.Compute, own="compute")
    compute.set_up(machine)
    image_set = open_set(images)
    validation = image_set.rows("validation")
    score = functools.partial(
        validation_score,
        images=image_set.images[validation],
        labels=image_set.labels(validation),
        z_dim=run.architecture.z_dim,
        sizes=run.selection.n_images,
        batch_size=run.selection.batch_size,
        compute=machine,
    )
    with scratch(
        stage.name(f"train@{name}"), script=Path("stages/train.py"), data=[images], run=run, **compute.record(machine)
    ) as folder:
        trained = adversarial.train(image_set, run, machine, folder, score)
        record = {
            "run": name,
            "params": asdict(run),
            "steps": trained.steps,
            "n_images": len(image_set.rows("train")),
            **compute.record(machine),
        }
        tables = {"history": trained.history, "validation": trained.validation}
        store.write_model(out, trained.tensors, record, tables)
        records.write_csv(curves, training_curves(trained.history))


if __name__ == "__main__":
    stage.run(main)
