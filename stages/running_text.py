"""Stage `running_text`: what this profile has of the numbers in the papers' running text."""

from pathlib import Path

from pipeline.core import records, stage
from pipeline.reporting import running_text


def main(params_file: Path, results: Path, votes: Path, out: Path) -> None:
    """Gather the numbers from the folder RESULTS and the table of VOTES."""
    settings = running_text.read_settings(params_file)
    records.write_parquet(out, running_text.gather(results, votes, settings))


if __name__ == "__main__":
    stage.run(main)
