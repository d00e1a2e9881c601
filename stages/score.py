"""Stage `score`: scores of a run's generated images, or of real ones (Improved GAN, section 4 and Table 3).

By the classifier that the pipeline trains and, where weights are named and the gate was passed, by the Inception
network.
"""

import json
from pathlib import Path

from pipeline.core import compute, params, records, stage
from pipeline.core.files import write_text
from pipeline.core.scratch import scratch
from pipeline.core.store import open_set, write_arrays
from pipeline.evaluation import scoring
from pipeline.models.classifier import read_classifier


def main(
    params_file: Path,
    name: str,
    images: Path,
    source: Path,
    classifier: Path,
    gate: Path,
    out: Path,
    record: Path,
    over_steps: Path,
    samples: Path,
) -> None:
    """Score SOURCE, a model folder or the image set IMAGES itself; write OUT, its RECORD, OVER_STEPS, SAMPLES."""
    config = params.load(params_file, scoring.Score, own="score")
    machine = params.load(params_file, compute.Compute, own="compute")
    compute.set_up(machine)
    image_set = open_set(images)
    judge = read_classifier(classifier, machine.device, compute.autocast(machine))
    with scratch(
        stage.name(f"score@{name}"),
        script=Path("stages/score.py"),
        data=[images, source, classifier, gate],
        config=config,
        **compute.record(machine),
    ) as folder:
        passed = scoring.read_gate(gate, config)
        task = scoring.task_of(name, image_set, config, judge, passed, machine, folder)
        scored = scoring.score_real(task) if source == images else scoring.score_run(task, source)
        records.write_parquet(out, scored.table)
        records.write_parquet(over_steps, scored.over_steps)
        write_text(record, json.dumps(scored.record, indent=2, sort_keys=True) + "\n")
        write_arrays(samples, images=scored.images, top=scored.top, kl=scored.kl)
        stage.counted(images=scored.n_judged)


if __name__ == "__main__":
    stage.run(main)
