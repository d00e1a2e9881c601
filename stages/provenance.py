"""Stage `provenance`: hashes of what a model rests on, beside the record of its run, for the report page.

It depends on the code of the training scripts, so that a change there makes the record anew: after ``dvc repro`` the
code hash is that of the code which DVC holds the model to be made with.
"""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core import files, stage
from pipeline.core.source_code import fingerprint, imported_files

if TYPE_CHECKING:  # tells the graph what this stage depends on, and loads nothing
    from stages import imagenet128, semisup, train  # noqa: F401


def main(_params_file: Path, script: Path, model: Path, images: Path, out: Path) -> None:
    """Hash the code that SCRIPT runs, the networks of the folder MODEL and the image set IMAGES into the file OUT."""
    with (model / "networks.safetensors").open("rb") as networks:
        record = {
            "code": fingerprint(imported_files(script)),
            "data": fingerprint([Path()], images),
            "networks": hashlib.file_digest(networks, "sha256").hexdigest(),
            "run": json.loads((model / "run.json").read_text(encoding="utf-8")),
        }
    files.write_text(out, json.dumps(record, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    stage.run(main)
