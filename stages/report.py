"""Stage `report`: report.md and datasets.md of a profile, and what its numbers rest on."""

from pathlib import Path

from pipeline.core import files, params, records, stage
from pipeline.reporting import page, tables

IMAGENET128 = "imagenet128_improved"  # of a stage of its own


def main(params_file: Path, profile: str, reports: Path, records_of_runs: Path, metrics: Path) -> None:
    """Write the pages and metrics/provenance.json into REPORTS, from tables, RECORDS_OF_RUNS and figures' METRICS."""
    report = params.load(params_file, tables.Report, own="report")
    runs = [records_of_runs / name for name in [*params.read(params_file)["train"]["runs"], IMAGENET128]]
    files.write_text(reports / "report.md", page.report_page(profile, report, reports, runs, metrics))
    files.write_text(reports / "datasets.md", page.datasets_page(profile, report, reports))
    records.write_metrics(reports / "metrics/provenance.json", page.provenance(runs))


if __name__ == "__main__":
    stage.run(main)
