"""Stage `figure`: one figure of a paper as PNG, with its numbers as metrics and as CSV."""

from pathlib import Path

from pipeline.core import records, stage
from pipeline.reporting import drawing, figures


def main(
    _params_file: Path, name: str, results: Path, png: Path, metrics: Path, numbers: Path, for_the_report: Path
) -> None:
    """Draw figure NAME from the folder RESULTS; its METRICS are also written FOR_THE_REPORT.

    The report depends on the folder of the latter: on those figures that a profile has, whichever they are.
    """
    drawn = figures.FIGURES[name](results)
    drawing.save(drawn.figure, png)
    records.write_metrics(metrics, drawn.metrics)
    records.write_metrics(for_the_report, drawn.metrics)
    records.write_csv(numbers, drawn.numbers)


if __name__ == "__main__":
    stage.run(main)
