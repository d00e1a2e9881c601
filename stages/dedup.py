"""Stage `dedup`: remove near-duplicates by autoencoder hash (DCGAN, section 4.1)."""

from pathlib import Path

from pipeline.core import compute, params, records, stage
from pipeline.core.scratch import scratch
from pipeline.core.store import open_set, write_arrays
from pipeline.datasets import dedup
from pipeline.models.hash_autoencoder import read_autoencoder


def main(params_file: Path, images: Path, model: Path, out: Path, results: Path, collisions: Path) -> None:
    """Write the image set IMAGES without near-duplicates to OUT; counts to RESULTS, pairs for the eye to COLLISIONS."""
    config = params.load(params_file, dedup.Dedup, own="dedup")
    machine = params.load(params_file, compute.Compute, own="compute")
    compute.set_up(machine)
    image_set = open_set(images)
    network = read_autoencoder(model, machine.device)
    data, record = [images, model], compute.record(machine)
    with scratch(stage.name("dedup"), script=Path("stages/dedup.py"), data=data, config=config, **record) as folder:
        removal = dedup.deduplicate(image_set, network, config, machine, folder, out)
        stage.counted(images=len(image_set.images))
        records.write_parquet(results, removal.results)
        write_arrays(collisions, **removal.collisions)


if __name__ == "__main__":
    stage.run(main)
