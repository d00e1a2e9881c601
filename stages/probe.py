"""Stage `probe`: test error of linear L2-SVMs on features, C chosen on validation images (DCGAN, Tables 1 and 2)."""

from pathlib import Path

from pipeline.core import compute, params, records, stage
from pipeline.core.scratch import scratch
from pipeline.core.store import open_set
from pipeline.evaluation import features, probes
from pipeline.models.build import trained_discriminator


def main(params_file: Path, dataset: str, images: Path, folder: Path, out: Path, model: Path | None = None) -> None:
    """Fit on the features in FOLDER of the image set IMAGES as DATASET asks; refuse features of another MODEL."""
    config = params.load(params_file, probes.Probe, own=f"probe.{dataset}")
    machine = params.load(params_file, compute.Compute, own="compute")
    compute.set_up(machine)
    image_set = open_set(images)
    network = features.network_sha256(trained_discriminator(model)) if model else None
    parts = probes.parts_of(image_set, n_validation=config.n_validation, seed=config.seed)
    opened = {split: features.open_features(folder, split, image_set, network) for split in parts.splits()}
    inputs = {"script": Path("stages/probe.py"), "data": [images, folder], "config": config}
    inputs |= compute.record(machine)
    with scratch(stage.name(f"probe@{out.stem}"), **inputs) as place:
        rows = probes.probe(opened, parts, config, machine, place)
        stage.counted(fits=len(rows))
        units = features.max_feature_units(folder)
        table = probes.result_table(rows, n_features=opened["train"].shape[1], max_feature_units=units)
        records.write_parquet(out, table)


if __name__ == "__main__":
    stage.run(main)
