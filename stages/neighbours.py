"""Stage `neighbours`: error of the 1-nearest-neighbour classifier built on real or generated digits (DCGAN, Table 3).

Generation is fused with the search: nothing of the size of the generated set is stored.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.core import compute, params, stage
from pipeline.core.files import whole_file
from pipeline.core.scratch import scratch
from pipeline.core.store import ImageSet, open_set
from pipeline.evaluation import digits
from pipeline.models import store
from pipeline.models.build import build_generator, read_architecture


def main(params_file: Path, name: str, images: Path, source: Path, out: Path, sheet: Path) -> None:
    """Classify the test images of IMAGES by SOURCE (the same set, or a model folder).

    Writes the table OUT (a row a seed, network and size) and the SHEET of Figure 9 (10 digits x 7 images).
    """
    search = params.load(params_file, digits.Search, own="neighbours")
    machine = params.load(params_file, compute.Compute, own="compute")
    compute.set_up(machine)
    image_set = open_set(images)
    if source == images:
        results, figure = real_images(image_set, machine)
    else:
        with scratch(stage.name(f"neighbours@{name}"), script=Path("stages/neighbours.py"), data=[images, source],
                     search=search, compute=machine) as folder:  # fmt: skip
            results, figure = generated_images(image_set, source, search, machine, folder)
    with whole_file(out) as partial, whole_file(sheet) as sheet_partial:
        results.to_parquet(partial, index=False)
        with sheet_partial.open("wb") as file:
            np.save(file, figure)


def real_images(image_set: ImageSet, machine: compute.Compute) -> tuple[pd.DataFrame, np.ndarray]:
    """Classify by the training images themselves."""
    train, test = image_set.rows("train"), image_set.rows("test")
    images, labels = image_set.images[train], image_set.labels(train)
    row = digits.classify_by_images(image_set.images[test], image_set.labels(test), images, labels, machine)
    return row.assign(seed=-1, network="real"), digits.first_of_each_class(images, labels)


def generated_images(
    image_set: ImageSet, model: Path, search: digits.Search, machine: compute.Compute, folder: Path
) -> tuple[pd.DataFrame, np.ndarray]:
    """Classify by the generators of a model: each seed's chosen epoch, and its last."""
    run, tensors = read_architecture(model), store.read_tensors(model / store.NETWORKS_FILE)
    test = image_set.rows("test")
    results, figure = [], np.empty(0)
    for seed in store.seeds(tensors):
        for network, sizes in (("generator", search.n_images), ("generator_last", search.n_images_last_epoch)):
            generator = build_generator(run).to(machine.device)
            store.load_into(generator, tensors, f"seed{seed}/{network}", model)
            task = digits.SearchTask(
                test_images=image_set.images[test], test_labels=image_set.labels(test), generator=generator,
                z_dim=run.z_dim, seed=seed, stream="neighbours",
            )  # fmt: skip
            checkpoint = folder / f"seed{seed}-{network}.safetensors"
            rows = digits.classify_by_samples(task, sizes, search.batch_size, machine, checkpoint)
            results.append(rows.assign(seed=seed, network=network))
            if not figure.size:
                figure = digits.first_samples(task, search.batch_size, machine)
    return pd.concat(results, ignore_index=True), figure


if __name__ == "__main__":
    stage.run(main)
