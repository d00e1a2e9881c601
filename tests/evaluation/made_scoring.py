"""A small set, classifier and semi-supervised run to score; pytest puts the folder of the test files on the path."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.core.compute import Compute, autocast
from pipeline.core.seeding import numpy_stream, torch_stream
from pipeline.core.store import ImageSet, no_rejects, open_set, write_set
from pipeline.evaluation.scoring import Score
from pipeline.models import improved
from pipeline.models.classifier import Classifier, ClassifierNetwork, initialise_classifier, read_classifier
from pipeline.models.dcgan import to_signed
from pipeline.models.store import named_tensors, write_model
from pipeline.training.labelled_batches import Pixels
from pipeline.training.semisupervised import Run, Techniques

COMPUTE = Compute(device="cpu", threads=1, precision="fp32")
CONFIG = Score(
    n_images=22,
    n_splits=3,
    batch_size=5,
    n_kept=4,
    top_share=0.1,
    neighbours=2,
    n_neighbour_images=12,
    kernel_subsets=3,
    kernel_subset_size=8,
    n_images_over_steps=9,
    seed=6,
    inception=None,
)
N_TRAIN, N_TEST = 30, 15


def made_set(folder: Path) -> ImageSet:
    """Noise of ten brightnesses, the classes, sorted by class; every third image is a test image."""
    n = N_TRAIN + N_TEST
    labels = np.arange(n) * 10 // n
    noise = numpy_stream(0, "images").integers(0, 40, (n, 32, 32, 3))
    images = (noise + 21 * labels[:, None, None, None]).astype(np.uint8)
    split = np.where(np.arange(n) % 3 == 2, "test", "train")
    keys = [f"{row:03d}" for row in range(n)]
    index = pd.DataFrame({"key": keys, "split": split, "label": labels, "source": "made"})
    write_set(folder, images, index, no_rejects())
    return open_set(folder)


def made_classifier(folder: Path, image_set: ImageSet) -> Classifier:
    """Not trained, but with running averages of the set."""
    network = ClassifierNetwork(2, 10)
    initialise_classifier(network, torch_stream(0, "classifier"))
    for _ in range(20):
        network(to_signed(np.array(image_set.images)))
    record = {"params": {"width": 2, "seed": 0}, "n_classes": 10, "n_test": N_TEST, "test_accuracy_percent": 62.5}
    write_model(folder, named_tensors("seed0/classifier", network), record, {})
    return read_classifier(folder, COMPUTE.device, autocast(COMPUTE))


def made_run(*, reference_batch: int = 0, name: str = "minibatch_conv", **changes: object) -> Run:
    """Two seeds of a run of Table 3, tiny."""
    architecture = improved.MinibatchArchitecture(
        name=name,
        preset="current",
        z_dim=5,
        generator_width=4,
        discriminator_width=4,
        n_kernels=0,
        kernel_dim=2,
        weight_norm=True,
        data_dependent=True,
        noise=False,
        reference_batch=reference_batch,
    )
    techniques = Techniques(
        generator_loss="minimax",
        generator_steps=1,
        real_target=0.9,
        historical_averaging=0.0,
        parameter_average=0.0,
    )
    digits = name == "minibatch_mnist"
    values = {
        "beta1": 0.5,
        "beta2": 0.999,
        "adam_epsilon": 1e-8,
        "log_every_steps": 4,
        "n_samples": 6,
        "dataset": "made",
        "n_labels": 20,
        "architecture": architecture,
        "techniques": techniques,
        "pixels": Pixels(offset=0.0, divisor=255.0) if digits else Pixels(offset=127.5, divisor=128.0),
        "splits": [0],
        "seeds": [4, 7],
        "at_once": 2,
        "batch_size": 8,
        "learning_rate": 0.003,
        "constant_epochs": 2,
        "decay_epochs": 1,
        "test_every_epochs": 2,
        "labels_only_epochs": 0,
        "n_snapshots": 0,
    }
    return Run(**(values | changes))


def made_model(folder: Path, run: Run) -> Path:
    """The generators as they were drawn, written as the stage ``semisup`` does."""
    tensors = {}
    for split in run.splits:
        for seed in run.seeds:
            generator = improved.build_generator(run.architecture, 1)
            improved.initialise_generator(run.architecture, generator, [torch_stream(seed, "generator")], n_z=8)
            tensors |= named_tensors(f"seed{seed}/split{split}/generator", generator)
    write_model(folder, tensors, {"params": asdict(run), "steps": 9}, {})
    return folder
