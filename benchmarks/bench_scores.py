"""A scoring pass beside the loop that a user would write: generate, round, judge; images a second of both.

The peer generates batches of 50 in fp32, keeps them as float32 arrays and judges them afterwards in batches of 50, all
of it in memory. Ours judges each batch as it comes, in the machine's precision, and has it on disk. G is Improved GAN's
for CIFAR-10 at the authors' width with virtual batch norm, the classifier that of the laptop profile; their weights are
as they were drawn, which changes no time. The distances that follow from the features are the same work for both.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.core.compute import Compute, autocast, precision_in_force, set_up
from pipeline.core.seeding import torch_stream
from pipeline.evaluation.scoring import Score, generated_images, judged, of_classifier
from pipeline.models import improved
from pipeline.models.classifier import Classifier, ClassifierNetwork, initialise_classifier
from pipeline.models.dcgan import to_signed
from pipeline.training.labelled_batches import Pixels
from pipeline.training.semisupervised import Run, Techniques

COMPUTE = Compute(device="cpu", threads=2, precision="auto")
ROUNDS = 3
IMAGES = 1000
WIDTH = 32
PEER_BATCH = 50
CONFIG = Score(
    n_images=IMAGES,
    n_splits=10,
    batch_size=100,
    n_kept=1,
    top_share=0.01,
    neighbours=5,
    n_neighbour_images=IMAGES,
    kernel_subsets=1,
    kernel_subset_size=IMAGES,
    n_images_over_steps=IMAGES,
    seed=0,
    inception=None,
)
ARCHITECTURE = improved.MinibatchArchitecture(
    name="minibatch_conv",
    preset="current",
    z_dim=100,
    generator_width=128,
    discriminator_width=96,
    n_kernels=100,
    kernel_dim=5,
    weight_norm=True,
    data_dependent=True,
    noise=True,
    reference_batch=100,
)
RUN = Run(
    beta1=0.5,
    beta2=0.999,
    adam_epsilon=1e-8,
    log_every_steps=1,
    n_samples=2,
    dataset="made",
    n_labels=0,
    architecture=ARCHITECTURE,
    techniques=Techniques(
        generator_loss="minimax",
        generator_steps=3,
        real_target=0.9,
        historical_averaging=0.0,
        parameter_average=0.0,
    ),
    pixels=Pixels(offset=127.5, divisor=128.0),
    splits=[0],
    seeds=[0],
    at_once=1,
    batch_size=100,
    learning_rate=0.0003,
    constant_epochs=1,
    decay_epochs=0,
    test_every_epochs=1,
    labels_only_epochs=0,
    n_snapshots=0,
)


def seconds_of(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Median of some rounds, after one that chooses kernels."""
    work()
    taken = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


@torch.inference_mode()
def plain(generator: nn.Module, classifier: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    """Features and probabilities of images that were all generated first; the classifier sees 8-bit images here too."""
    images = np.empty((IMAGES, 3, 32, 32), dtype=np.float32)
    for start in range(0, IMAGES, PEER_BATCH):
        z = torch.rand(1, PEER_BATCH, ARCHITECTURE.z_dim)
        images[start : start + PEER_BATCH] = ((generator(z)[0] + 1) * 127.5).round().clamp(0, 255).numpy()
    features, probabilities = [], []
    for start in range(0, IMAGES, PEER_BATCH):
        found, logits = classifier(torch.from_numpy(images[start : start + PEER_BATCH]) / 127.5 - 1)
        features.append(found.numpy())
        probabilities.append(F.softmax(logits, dim=1).numpy())
    return np.concatenate(features), np.concatenate(probabilities)


def main() -> None:
    set_up(COMPUTE)
    generator = improved.build_generator(ARCHITECTURE, 1)
    improved.initialise_generator(ARCHITECTURE, generator, [torch_stream(0, "benchmark")], n_z=100)
    network = ClassifierNetwork(WIDTH, 10)
    initialise_classifier(network, torch_stream(0, "benchmark"))
    theirs = IMAGES / seconds_of(lambda: plain(generator, network.eval()))
    network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    record = {"test_accuracy_percent": 0.0, "n_test": 0}
    classifier = Classifier(network, record, autocast(COMPUTE))
    images = generated_images(generator, RUN, CONFIG, COMPUTE, "benchmark")
    batch = images.batch(0)
    x = to_signed(batch)

    def whole() -> None:
        with tempfile.TemporaryDirectory() as folder:  # a new one: work that is found done would be skipped
            keep = ("features", "probabilities", "images")
            judged(images, [of_classifier(classifier)], Path(folder), what="benchmark", keep=keep)

    ours = IMAGES / seconds_of(whole)
    generated = len(batch) / seconds_of(lambda: images.batch(0), 9)
    with torch.inference_mode(), autocast(COMPUTE):
        classified = len(batch) / seconds_of(lambda: network(x), 9)
    both = 1 / (1 / generated + 1 / classified)
    print(
        f"scoring pass, G of CIFAR-10 at {ARCHITECTURE.generator_width} maps with virtual batch norm and a classifier "
        f"of {WIDTH}, {COMPUTE.threads} threads: ours ({precision_in_force(COMPUTE)}, written to disk) {ours:,.0f} "
        f"images/s = {ours / both:.0%} of the two networks alone; generate, then judge in fp32 in batches of "
        f"{PEER_BATCH} {theirs:,.0f} images/s, ratio {ours / theirs:.2f}"
    )


if __name__ == "__main__":
    main()
