"""Stage `table`: one table of a paper, published beside measured, as CSV, Markdown and metrics."""

from pathlib import Path

from pipeline.core import params, records, stage
from pipeline.reporting import tables


def main(params_file: Path, name: str, results: Path, csv: Path, md: Path, metrics: Path) -> None:
    """Write table NAME from the folder RESULTS."""
    report = params.load(params_file, tables.Report, own="report")
    title, make = tables.TABLES[name]
    records.write_table(make(results, report), title, csv=csv, md=md, metrics=metrics)


if __name__ == "__main__":
    stage.run(main)
