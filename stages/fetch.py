"""Stage `fetch`: the raw bytes of one dataset, verified."""

from pathlib import Path

from pipeline.core import params, stage
from pipeline.core.errors import InputError
from pipeline.datasets import sources


def main(params_file: Path, name: str, out: Path) -> None:
    """Fetch dataset NAME into the folder OUT."""
    if name != "mnist":
        message = f"fetch: no source for dataset '{name}'; expected mnist"
        raise InputError(message)
    sources.fetch_mnist(out, params.load(params_file, sources.MnistSource, own="fetch.mnist"))


if __name__ == "__main__":
    stage.run(main)
