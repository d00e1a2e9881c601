"""Stage `semisup`: discriminators that classify with few labels, for each split and seed (Improved GAN, section 5)."""

from dataclasses import asdict
from pathlib import Path

import numpy as np

from pipeline.core import compute, params, records, stage
from pipeline.core.files import whole_directory
from pipeline.core.scratch import scratch
from pipeline.core.store import ImageSet, open_set, write_arrays
from pipeline.models import store
from pipeline.training import semisupervised
from pipeline.training.labelled_batches import training_rows
from pipeline.training.memory import keep_freed_memory


def main(params_file: Path, name: str, images: Path, out: Path, results: Path, samples: Path, curves: Path) -> None:
    """Train run NAME on the image set IMAGES; write the model folder OUT, RESULTS, SAMPLES and the plotted CURVES."""
    run = params.load(params_file, semisupervised.Run, shared="semisup", own=f"semisup.runs.{name}")
    machine = params.load(params_file, compute.Compute, own="compute")
    compute.set_up(machine)
    keep_freed_memory()
    image_set = open_set(images)
    record = {"stage": "semisup", "run": name, "params": asdict(run), **compute.record(machine)}
    with scratch(
        stage.name(f"semisup@{name}"),
        script=Path("stages/semisup.py"),
        data=[images],
        run=run,
        **compute.record(machine),
    ) as folder:
        trained = semisupervised.train(image_set, run, machine, folder)
        alone = semisupervised.train_labels_only(image_set, run, machine, folder) if run.labels_only_epochs else None
        record |= {"steps": trained.steps, "labels_only_steps": alone.steps if alone else 0}
        record |= {"n_images": len(training_rows(image_set))}
        tables = {"history": trained.history, "errors": trained.errors, "health": trained.health}
        store.write_model(out, trained.tensors, record, tables | {"labelled": trained.labelled})
        write_results(results, trained, alone, image_set, run, out)
        write_arrays(samples, images=trained.samples, members=np.array(run.members))
        records.write_csv(curves, semisupervised.error_curve(trained.errors))
        stage.counted(images=trained.images + (alone.images if alone else 0))


def write_results(
    results: Path,
    trained: semisupervised.Trained,
    alone: semisupervised.Trained | None,
    image_set: ImageSet,
    run: semisupervised.Run,
    model: Path,
) -> None:
    """What the tables are made of: logits of the test images, with and without unlabelled images; errors by epoch."""
    with whole_directory(results) as partial:
        (partial / "run.json").write_bytes((model / "run.json").read_bytes())
        trained.errors.to_parquet(partial / "errors.parquet", index=False)
        trained.health.to_parquet(partial / "health.parquet", index=False)
        trained.history.to_parquet(partial / "history.parquet", index=False)
        write_arrays(
            partial / "logits.npz",
            members=np.array(run.members),
            labels=image_set.labels(image_set.rows("test")),
            logits=trained.logits,
            labels_only=alone.logits if alone else np.empty((0, *trained.logits.shape[1:]), dtype=np.float32),
        )


if __name__ == "__main__":
    stage.run(main)
