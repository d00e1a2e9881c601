"""Stage `report`: report.md, datasets.md and the page of a profile, and what its numbers rest on."""

from pathlib import Path

from pipeline.core import files, params, records, stage
from pipeline.reporting import page, provenance, tables
from pipeline.reporting.web import html_page, pictures

IMAGENET128 = "imagenet128_improved"  # of a stage of its own


def main(
    params_file: Path,
    profile: str,
    reports: Path,
    records_of_runs: Path,
    metrics: Path,
    figures: Path,
    sheets: Path,
    semisup: Path,
    html: Path,
) -> None:
    """Write the Markdown pages and metrics/provenance.json into REPORTS, and the page HTML, which needs nothing else.

    All of them from tables, RECORDS_OF_RUNS, results of SEMISUP and figures' METRICS; HTML also from the pictures in
    FIGURES and SHEETS.
    """
    report = params.load(params_file, tables.Report, own="report")
    values = params.read(params_file)
    runs = [records_of_runs / name for name in [*values["train"]["runs"], IMAGENET128]]
    few_labels = [semisup / run["dataset"] / name for name, run in values["semisup"]["runs"].items()]
    report_parts = page.report_parts(profile, report, reports, runs, metrics, few_labels)
    datasets_parts = page.datasets_parts(profile, report, reports)
    files.write_text(reports / "report.md", page.markdown(report_parts))
    files.write_text(reports / "datasets.md", page.markdown(datasets_parts))
    records.write_metrics(reports / "metrics/provenance.json", page.provenance([*runs, *few_labels]))
    hashes = provenance.read_hashes(records_of_runs)
    text = html_page.html_page(
        profile,
        report,
        report_parts=report_parts,
        datasets_parts=datasets_parts,
        tables=reports / "tables",
        shown=pictures.read(pictures.in_folders(figures, sheets)),
        runs=[*provenance.read_runs(records_of_runs, hashes), *provenance.read_runs(semisup, hashes, depth=2)],
    )
    files.write_text(html, text)


if __name__ == "__main__":
    stage.run(main)
