"""Stage `train`: fit the generator and discriminator of one run, for each of its seeds (DCGAN, section 4)."""

import functools
from dataclasses import asdict
from pathlib import Path

from pipeline.core import compute, params, stage
from pipeline.core.files import whole_directory, whole_file
from pipeline.core.scratch import scratch
from pipeline.core.store import open_set
from pipeline.evaluation.digits import validation_score
from pipeline.models import store
from pipeline.training.curves import training_curves
from pipeline.training import adversarial


def main(params_file: Path, name: str, images: Path, out: Path, curves: Path) -> None:
    """Train run NAME on the image set IMAGES; write the model folder OUT and the plotted CURVES."""
    run = params.load(params_file, adversarial.Run, shared="train", own=f"train.runs.{name}")
    machine = params.load(params_file, compute.Compute, own="compute")
    compute.set_up(machine)
    image_set = open_set(images)
    validation = image_set.rows("validation")
    score = functools.partial(
        validation_score, images=image_set.images[validation], labels=image_set.labels(validation),
        z_dim=run.architecture.z_dim, sizes=run.selection.n_images, batch_size=run.selection.batch_size, compute=machine,
    )  # fmt: skip
    with scratch(stage.name(f"train@{name}"), script=Path("stages/train.py"), data=[images],
                 run=run, compute=machine) as folder:  # fmt: skip
        trained = adversarial.train(image_set, run, machine, folder, score)
        with whole_directory(out) as partial, whole_file(curves) as curves_partial:
            store.write_tensors(partial / store.NETWORKS_FILE, trained.tensors)
            trained.history.to_parquet(partial / "history.parquet", index=False)
            trained.validation.to_parquet(partial / "validation.parquet", index=False)
            store.write_run(
                partial / store.RUN_FILE,
                {
                    "run": name, "params": asdict(run), "compute": asdict(machine), "steps": trained.steps,
                    "precision": compute.precision_in_force(machine),
                    "instruction_set": compute.instruction_set(machine.device), "n_images": len(image_set.rows("train")),
                },
            )  # fmt: skip
            training_curves(trained.history).to_csv(curves_partial, index=False, lineterminator="\n")


if __name__ == "__main__":
    stage.run(main)
