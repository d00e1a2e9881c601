"""Stage `assemble`: raw archive -> image set."""

from pathlib import Path

from pipeline.core import params, stage
from pipeline.core.errors import InputError
from pipeline.core.scratch import scratch
from pipeline.datasets import assemble, export, sources
from pipeline.datasets.cifar10 import Cifar10Splits, assemble_cifar10
from pipeline.datasets.decode import Decoding
from pipeline.datasets.svhn import SvhnSplits, assemble_svhn


def main(params_file: Path, name: str, raw: Path, out: Path) -> None:
    """Assemble image set NAME from the folder RAW into OUT."""
    own = f"assemble.{name}"
    match name:
        case "mnist":
            assemble.assemble_mnist(raw, out, params.load(params_file, assemble.MnistSplits, own=own))
        case "cifar10":
            splits = params.load(params_file, Cifar10Splits, own=own)
            archive = params.load_optional(params_file, sources.Cifar10Archive, own="fetch.cifar10.official")
            assemble_cifar10(raw, out, splits, md5=archive.md5 if archive else {})
        case "svhn":
            splits = params.load(params_file, SvhnSplits, own=own)
            archive = params.load_optional(params_file, sources.SvhnArchive, own="fetch.svhn.official")
            assemble_svhn(raw, out, splits, md5=archive.md5 if archive else {})
        case _ if name in export.PARTS:
            crops = params.load(params_file, export.Crops, own=own)
            decoding = params.load(params_file, Decoding, own="decoding")
            config = export.Export(size=crops.size, limit=crops.limit, decoding=decoding)
            inputs = {"script": Path("stages/assemble.py"), "data": [raw], "config": config}
            with scratch(stage.name(f"assemble@{name}"), **inputs) as folder:
                exported = export.export(export.PARTS[name](raw), out, folder, config, truth=export.truth_of(raw))
                stage.counted(images=exported.n_inputs)
        case _:
            message = (
                f"assemble: no recipe for image set '{name}'; expected mnist, cifar10, svhn, {', '.join(export.PARTS)}"
            )
            raise InputError(message)


if __name__ == "__main__":
    stage.run(main)
