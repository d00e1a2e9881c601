"""Stage `inception_gate`: the Inception network's score of CIFAR-10's real training images, before it may judge others.

Its content is ``{"sha256", "score"}``, or ``{"not_run": sentence}`` where this profile names no weights.
"""

import json
from pathlib import Path

from pipeline.core import compute, params, stage
from pipeline.core.files import write_text
from pipeline.core.scratch import scratch
from pipeline.core.store import open_set
from pipeline.evaluation import scoring


def main(params_file: Path, images: Path, out: Path) -> None:
    """Score the training images of the set IMAGES; write what came out to OUT."""
    config = params.load(params_file, scoring.Score, own="score")
    machine = params.load(params_file, compute.Compute, own="compute")
    compute.set_up(machine)
    image_set = open_set(images)
    with scratch(
        stage.name("inception_gate"),
        script=Path("stages/inception_gate.py"),
        data=[images],
        config=config,
        **compute.record(machine),
    ) as folder:
        found = scoring.run_gate(image_set, config, machine, folder)
        write_text(out, json.dumps(found, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    stage.run(main)
