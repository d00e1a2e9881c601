"""Stage `turing_report`: how often people told generated from real images, and how feedback changes it."""

from pathlib import Path

from pipeline.core import params, records, stage
from pipeline.reporting import drawing
from pipeline.reporting.rows import Report
from pipeline.turing import learning, report
from pipeline.turing.deck import read_decks
from pipeline.turing.votes import read_votes


def main(
    params_file: Path, decks: Path, votes: Path, csv: Path, md: Path, metrics: Path, png: Path, numbers: Path
) -> None:
    """Write the table of all VOTES on DECKS, and the learning curve as PNG and NUMBERS; nobody need have voted."""
    reading = params.load(params_file, Report, own="report")
    made = any(decks.glob("*/deck.json"))  # a profile need not have trained what decks are made of
    known, cast = read_decks(decks) if made else {}, read_votes(votes)
    report.check_truth(votes, known, cast)
    records.write_table(report.table(known, cast, reading), report.TITLE, csv=csv, md=md, metrics=metrics)
    curve = learning.curve(known, cast)
    drawing.save(learning.draw(known, curve), png)
    records.write_csv(numbers, curve)
    stage.counted(votes=len(cast))


if __name__ == "__main__":
    stage.run(main)
