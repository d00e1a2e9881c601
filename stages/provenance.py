"""Stage `provenance`: hashes of what each model rests on, for the report page.

It depends on the code of the training scripts, so that a change there makes the record anew: after ``dvc repro`` the
code hash is that of the code which DVC holds the models to be made with.
"""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core import files, stage
from pipeline.core.errors import InputError
from pipeline.core.source_code import fingerprint, imported_files
from pipeline.models import store

if TYPE_CHECKING:  # tells the graph what this stage depends on, and loads nothing
    from stages import imagenet128, semisup, train  # noqa: F401

STAGES = ("train", "semisup", "imagenet128")


def main(_params_file: Path, models: Path, sets: Path, out: Path) -> None:
    """Hash code, image set and networks of every model in the folder MODELS that a training stage made, into OUT."""
    runs = {path.parent.name: store.read_run(path.parent) for path in sorted(models.glob(f"*/{store.RUN_FILE}"))}
    record = {
        name: hashes(run, models / name, sets / run["params"]["dataset"])
        for name, run in runs.items()
        if run.get("stage") in STAGES
    }
    files.write_text(out, json.dumps(record, indent=2, sort_keys=True) + "\n")


def hashes(run: dict[str, Any], model: Path, images: Path) -> dict[str, str]:
    """``{"code", "data", "networks"}``, each a sha256."""
    if not images.is_dir():
        message = (
            f"{images}: missing, though {model} was trained on it; remove that folder if it is of a run that is gone"
        )
        raise InputError(message)
    with (model / store.NETWORKS_FILE).open("rb") as networks:
        return {
            "code": fingerprint(imported_files(Path(f"stages/{run['stage']}.py"))),
            "data": fingerprint([Path()], images),
            "networks": hashlib.file_digest(networks, "sha256").hexdigest(),
        }


if __name__ == "__main__":
    stage.run(main)
