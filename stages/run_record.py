"""Stage `run_record`: what a page says of a training run, beside its networks: params in force, losses, health."""

from pathlib import Path

import pandas as pd

from pipeline.core import files, records, stage

TABLES = ("history", "validation", "health")


def main(_params_file: Path, model: Path, out: Path) -> None:
    """Copy the small files of the model folder MODEL to OUT; a table that the model lacks is empty."""
    files.write_text(out / "run.json", (model / "run.json").read_text(encoding="utf-8"))
    for name in TABLES:
        file = model / f"{name}.parquet"
        records.write_parquet(out / file.name, pd.read_parquet(file) if file.is_file() else pd.DataFrame())


if __name__ == "__main__":
    stage.run(main)
