"""Stage `assemble`: raw archive -> image set."""

from pathlib import Path

from pipeline.core import params, stage
from pipeline.core.errors import InputError
from pipeline.datasets import assemble


def main(params_file: Path, name: str, raw: Path, out: Path) -> None:
    """Assemble dataset NAME from the folder RAW into the image set OUT."""
    if name != "mnist":
        message = f"assemble: no recipe for dataset '{name}'; expected mnist"
        raise InputError(message)
    assemble.assemble_mnist(raw, out, params.load(params_file, assemble.MnistSplits, own="assemble.mnist"))


if __name__ == "__main__":
    stage.run(main)
