"""Stage `classifier`: a network that learns the classes of a labelled set, to score generated images with."""

from dataclasses import asdict
from pathlib import Path

from pipeline.core import compute, params, stage
from pipeline.core.scratch import scratch
from pipeline.core.store import open_set
from pipeline.models import store
from pipeline.training import classifier
from pipeline.training.memory import keep_freed_memory


def main(params_file: Path, name: str, images: Path, out: Path) -> None:
    """Train the classifier NAME on the image set IMAGES; write the model folder OUT."""
    run = params.load(params_file, classifier.ClassifierRun, shared="classifier", own=f"classifier.runs.{name}")
    machine = params.load(params_file, compute.Compute, own="compute")
    compute.set_up(machine)
    keep_freed_memory()
    image_set = open_set(images)
    record = {"run": name, "params": asdict(run), **compute.record(machine)}
    inputs = {"script": Path("stages/classifier.py"), "data": [images], "run": run, **compute.record(machine)}
    with scratch(stage.name(f"classifier@{name}"), **inputs) as folder:
        trained = classifier.train(image_set, run, machine, folder)
        counts = ("steps", "n_images", "n_test", "n_classes", "test_accuracy_percent")
        record |= {count: getattr(trained, count) for count in counts}
        store.write_model(out, trained.tensors, record, {"history": trained.history})
        stage.counted(images=trained.images)


if __name__ == "__main__":
    stage.run(main)
