"""Stage `kmeans`: single-layer K-means features of every image of a set (a baseline of DCGAN, table 1)."""

from pathlib import Path

from pipeline.core import compute, params, stage
from pipeline.core.scratch import scratch
from pipeline.core.store import open_set
from pipeline.evaluation import kmeans


def main(params_file: Path, images: Path, out: Path) -> None:
    """Learn centroids of patches of the image set IMAGES and write the features of its images to the folder OUT."""
    config = params.load(params_file, kmeans.KMeansFeatures, own="kmeans")
    machine = params.load(params_file, compute.Compute, own="compute")
    compute.set_up(machine)
    image_set = open_set(images)
    record = compute.record(machine) | {"precision": "fp32"}  # whatever compute.precision says
    inputs = {"script": Path("stages/kmeans.py"), "data": [images], "config": config, **record}
    with scratch(stage.name(f"kmeans@{out.name}"), **inputs) as folder:
        kmeans.kmeans_features(image_set, out, config=config, compute=machine, scratch=folder)
        stage.counted(images=len(image_set.images))


if __name__ == "__main__":
    stage.run(main)
