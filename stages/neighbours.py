"""Stage `neighbours`: error of the 1-nearest-neighbour classifier built on real or generated digits (DCGAN, Table 3).

Generation is fused with the search: nothing of the size of the generated set is stored.
"""

from pathlib import Path

from pipeline.core import compute, params, records, stage
from pipeline.core.scratch import scratch
from pipeline.core.store import open_set, write_arrays
from pipeline.evaluation import digits, table3


def main(params_file: Path, name: str, images: Path, source: Path, out: Path, sheet: Path) -> None:
    """Classify the test digits of the set IMAGES by SOURCE: the set's own training digits, or a model folder."""
    search = params.load(params_file, digits.Search, own="neighbours")
    machine = params.load(params_file, compute.Compute, own="compute")
    compute.set_up(machine)
    image_set = open_set(images)
    inputs = {"script": Path("stages/neighbours.py"), "data": [images, source], "search": search}
    inputs |= compute.record(machine)
    with scratch(stage.name(f"neighbours@{name}"), **inputs) as folder:
        if source == images:
            results, shown = table3.real_digits(image_set, machine)
        else:
            results, shown = table3.generated_digits(image_set, source, search, machine, folder)
        records.write_parquet(out, results)
        write_arrays(sheet, images=shown.images, labels=shown.labels, nearest_labels=shown.nearest_labels)


if __name__ == "__main__":
    stage.run(main)
