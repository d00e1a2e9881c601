"""Stage `fetch`: the raw bytes of one data set, verified, or the pin of data left in place."""

from pathlib import Path

from pipeline.core import params, stage
from pipeline.core.errors import InputError
from pipeline.datasets.fetch import FETCH


def main(params_file: Path, name: str, out: Path) -> None:
    """Fetch data set NAME into the folder OUT."""
    if name not in FETCH:
        message = f"fetch: no source for data set '{name}'; expected {', '.join(FETCH)}"
        raise InputError(message)
    section, fetch = FETCH[name]
    fetch(out, params.load(params_file, section, own=f"fetch.{name}"))


if __name__ == "__main__":
    stage.run(main)
