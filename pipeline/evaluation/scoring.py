"""One pass over the images of a run, or over real ones: what networks say of them, and the scores that follow from it.

The networks are the classifier that the pipeline trains and, where its weights are named and the gate was passed, the
Inception network. Their numbers carry their names: a classifier's score is no Inception score.

Images are judged batch by batch as the 8-bit images that they would be saved as; what was found goes to files of the
scratch folder, so memory does not grow with their number and a killed run goes on behind the last whole batch.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import pandas as pd
import torch
from annotated_types import Ge, Interval
from pydantic import TypeAdapter, ValidationError
from torch import nn

from pipeline.core.compute import Compute, autocast
from pipeline.core.errors import InputError
from pipeline.core.files import write_text
from pipeline.core.params import section
from pipeline.core.progress import Progress
from pipeline.core.seeding import numpy_stream, torch_stream
from pipeline.core.store import ImageSet
from pipeline.evaluation import inception, scores
from pipeline.models import improved
from pipeline.models.classifier import Classifier
from pipeline.models.improved_layers import keep_weights
from pipeline.models.store import NETWORKS_FILE, load_into, read_run, read_tensors
from pipeline.training.labelled_batches import from_network
from pipeline.training.semisupervised import Run, snapshot_name, snapshot_steps

COLUMNS = ("seed", "quantity", "split", "value", "n_images", "n_labels")
OVER_STEPS = ("seed", "step", "quantity", "value", "n_images")
NONE = -1  # in the columns seed and split: of no seed, of no split
# Batches that G with virtual batch norm makes in one pass: its reference goes through G once for all of them, and no
# image depends on those beside it.
JOINED = 4
GATE_SPLITS = 10  # what the published number was computed with, whatever the params say


@section
class Score:
    """``score`` in params.yaml.

    Attributes
    ----------
    n_images : generated images of each seed; of real images as many, or all that there are
    n_splits : parts that a score is computed over; their mean is the score
    batch_size : generated at once, part of the result: G normalises by its batch
    n_kept : images of each seed that are kept, the first ones
    top_share : of the images of the first seed, those of the highest KL(p(y|x) || p(y)), kept too
    neighbours : k of precision, recall, density and coverage
    n_neighbour_images : generated and as many real images that these four are computed on
    kernel_subsets, kernel_subset_size : of the kernel distance
    n_images_over_steps : of each seed and each generator that was kept on the way, for the score over the steps
    seed : of z, of the order of real images, and of those subsets
    inception : the weight file of the Inception network; null: scores by the classifier alone
    """

    n_images: Annotated[int, Ge(2)]
    n_splits: Annotated[int, Ge(1)]
    batch_size: Annotated[int, Ge(2)]
    n_kept: Annotated[int, Ge(1)]
    top_share: Annotated[float, Interval(gt=0, le=1)]
    neighbours: Annotated[int, Ge(1)]
    n_neighbour_images: Annotated[int, Ge(2)]
    kernel_subsets: Annotated[int, Ge(1)]
    kernel_subset_size: Annotated[int, Ge(2)]
    n_images_over_steps: Annotated[int, Ge(2)]
    seed: int
    inception: inception.Inception | None

    def __post_init__(self) -> None:
        if refusal := self.refusal(self.n_images, f"n_images {self.n_images}") or self._bad_neighbours():
            raise ValueError(refusal)

    def refusal(self, n: int, what: str) -> str:
        """Why these settings do not go with ``n`` scored images, called ``what``; empty if they do."""
        for name in ("n_splits", "n_kept", "n_neighbour_images", "kernel_subset_size", "n_images_over_steps"):
            if (value := getattr(self, name)) > n:
                return f"{name} is {value}, more than the {n} images that are scored ({what}); lower {name}"
        if not self.n_top(n):
            return (
                f"top_share {self.top_share:g} of the {n} images that are scored ({what}) is less than one image; "
                f"write {1 / n:g} or more"
            )
        return ""

    def _bad_neighbours(self) -> str:
        if self.neighbours < self.n_neighbour_images:
            return ""
        return (
            f"neighbours is {self.neighbours}: each of n_neighbour_images {self.n_neighbour_images} has fewer others; "
            "lower neighbours"
        )

    def n_top(self, n: int) -> int:
        """How many of n images ``top_share`` is."""
        return int(self.top_share * n + 1e-9)  # 0.29 * 100 is 28.999999999999996


# ---- networks that judge --------------------------------------------------------------------------------------------


class Judge(Protocol):
    """A network as scoring sees it."""

    def judge(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 (B, H, W, C) -> float32 features (B, n_features), float32 p(y|x) (B, n_classes)."""
        ...


@dataclass(frozen=True, kw_only=True)
class Judging:
    """A network, what its numbers are called after, and the widths of what it gives."""

    name: Literal["classifier", "inception"]
    network: Judge
    n_features: int
    n_classes: int


def of_classifier(classifier: Classifier) -> Judging:
    """The classifier, to judge with."""
    return Judging(
        name="classifier", network=classifier, n_features=classifier.n_features, n_classes=classifier.n_classes
    )


def of_inception(network: Judge) -> Judging:
    """The Inception network, to judge with."""
    return Judging(name="inception", network=network, n_features=inception.N_FEATURES, n_classes=inception.N_CLASSES)


# ---- the gate -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Gate:
    """What the Inception network gave on CIFAR-10's real training images, or why it was not asked.

    Attributes
    ----------
    sha256 : of the weight file; empty where the gate was not run
    score : mean over ten splits
    refusal : why no number of this network may be reported; empty if the gate was passed
    """

    sha256: str
    score: float
    refusal: str


def run_gate(image_set: ImageSet, config: Score, compute: Compute, scratch: Path) -> dict[str, Any]:
    """``{"sha256", "score"}``, or ``{"not_run": sentence}`` where no weights are named or the images are others."""
    if config.inception is None:
        return {"not_run": "this profile names no weight file of the Inception network"}
    rows = image_set.rows("train")
    if len(rows) != inception.GATE_SHAPE[0] or not inception.is_gate_set(image_set.images[rows]):
        return {"not_run": f"the {len(rows):,} training images are not those of CIFAR-10 that the gate's number is of"}
    networks = [of_inception(inception.load(config.inception, compute))]
    images = stored_images(image_set, drawn(rows, len(rows), config.seed, "train"), config.batch_size)
    found = judged(images, networks, scratch / "gate", what="Inception gate", keep=("probabilities",))
    score = scores.class_score(found["inception/probabilities"], GATE_SPLITS).mean()
    return {"sha256": config.inception.sha256, "score": float(score)}


def read_gate(path: Path, config: Score) -> Gate:
    """What the stage ``inception_gate`` wrote, judged.

    Raises
    ------
    InputError
        If the file is missing or damaged.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if "not_run" in found:
            return Gate(sha256="", score=float("nan"), refusal=f"not run: {found['not_run']}")
        sha256, score = str(found["sha256"]), float(found["score"])
    except FileNotFoundError as error:
        message = f"{path}: missing; run the stage inception_gate (dvc repro)"
        raise InputError(message) from error
    except (ValueError, KeyError, TypeError) as error:
        message = f"{path}: not the record of the Inception gate ({error}); remove it and run dvc repro"
        raise InputError(message) from error
    return Gate(sha256=sha256, score=score, refusal=_refusal(sha256, score, config))


def _refusal(sha256: str, score: float, config: Score) -> str:
    if config.inception is None:
        return "not run: this profile names no weight file of the Inception network"
    if config.inception.sha256 != sha256:
        return f"not run: the gate was run with another weight file (sha256 {sha256[:16]})"
    try:
        inception.check_gate(score)
    except InputError as error:
        return f"not run: {error}"
    return ""


# ---- what is judged -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Images:
    """Images in batches.

    Attributes
    ----------
    batch : number of a batch, from 0 -> uint8 (batch_size, H, W, C), the same whatever came before it
    n : how many images count; those of the last batch that are beyond are cut off
    shape : height, width, channels
    """

    batch: Callable[[int], np.ndarray]
    batch_size: int
    n: int
    shape: tuple[int, ...]


def drawn(rows: np.ndarray, n: int, seed: int, split: str) -> np.ndarray:
    """At most n of the rows, in an order drawn by the seed: sets may be sorted by class, and splits must not be."""
    return numpy_stream(seed, f"score real/{split}").permutation(rows)[:n]


def stored_images(image_set: ImageSet, rows: np.ndarray, batch_size: int) -> Images:
    """Images of a set, in the order of ``rows``."""

    def batch(number: int) -> np.ndarray:
        return image_set.images[rows[number * batch_size : (number + 1) * batch_size]]

    return Images(batch=batch, batch_size=batch_size, n=len(rows), shape=image_set.images.shape[1:])


def generated_images(generator: nn.Module, run: Run, config: Score, compute: Compute, where: str) -> Images:
    """Images of a generator of one seed, by batch statistics, as in training.

    The z of each ``batch_size`` images are from (seed, "score z", their number), the same for every seed of a run.
    ``where`` is for the message if images are not finite.
    """
    generator.to(compute.device).train()
    keep_weights(generator)
    channels, height, width = improved.image_shape(run.architecture)
    joined = JOINED if run.architecture.reference_batch else 1

    def batch(number: int) -> np.ndarray:
        streams = [torch_stream(config.seed, "score z", number * joined + part) for part in range(joined)]
        z = torch.cat([improved.draw_z(run.architecture, config.batch_size, [stream]) for stream in streams], dim=1)
        with torch.inference_mode(), autocast(compute):
            images = generator(z.to(compute.device))[0]
        if not bool(images.isfinite().all()):
            message = f"{where}: generated images are not finite; expected a generator whose training did not diverge; "
            raise InputError(message + "train it again")
        return from_network(images, run.pixels)

    size = joined * config.batch_size
    return Images(batch=batch, batch_size=size, n=config.n_images, shape=(height, width, channels))


# ---- the pass -------------------------------------------------------------------------------------------------------


class GrowingArrays:
    """Arrays in files of one folder that blocks of rows are appended to in step.

    What a killed run left behind its last whole block is cut off. Not memory maps written to: their pages would count
    as this process's memory until the disk has them.
    """

    def __init__(self, folder: Path, row: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
        """``row`` : dtype and shape of a row, by the name of the array; "/" may stand in a name."""
        self._folder, self._row, self._count = folder, row, folder / "rows"
        folder.mkdir(parents=True, exist_ok=True)
        done = int(self._count.read_text(encoding="utf-8")) if self._count.exists() else 0
        if done and any(self._size(name) < done * self._bytes(name) for name in row):
            done = 0  # a crash of the machine kept the count and lost the rows
        for name in row:
            with self._path(name).open("r+b" if done else "wb") as file:
                file.truncate(done * self._bytes(name))
        self.done = done

    def add(self, blocks: Mapping[str, np.ndarray]) -> None:
        """Append the next rows of every array, of each as many."""
        lengths = {len(block) for block in blocks.values()}
        if blocks.keys() != self._row.keys() or len(lengths) != 1:
            message = f"blocks of {', '.join(blocks)} with {sorted(lengths)} rows for arrays {', '.join(self._row)}"
            raise ValueError(message)
        for name, block in blocks.items():
            dtype, shape = self._row[name]
            if block.shape[1:] != shape:
                message = f"{name}: rows of shape {block.shape[1:]}, expected {shape}"
                raise ValueError(message)
            with self._path(name).open("ab") as file:
                file.write(np.ascontiguousarray(block, dtype=dtype).data)
        self.done += lengths.pop()
        write_text(self._count, f"{self.done}\n")

    def read(self) -> dict[str, np.ndarray]:
        """All rows so far, as memory maps."""
        return {
            name: np.memmap(self._path(name), dtype=dtype, mode="r", shape=(self.done, *shape))
            for name, (dtype, shape) in self._row.items()
        }

    def _path(self, name: str) -> Path:
        return self._folder / f"{name.replace('/', '-')}.bin"

    def _size(self, name: str) -> int:
        path = self._path(name)
        return path.stat().st_size if path.exists() else 0

    def _bytes(self, name: str) -> int:
        dtype, shape = self._row[name]
        return np.dtype(dtype).itemsize * int(np.prod(shape))


Kind = Literal["features", "probabilities", "images"]


def judged(
    images: Images, networks: Sequence[Judging], folder: Path, *, what: str, keep: Sequence[Kind]
) -> dict[str, np.ndarray]:
    """What the networks say of images, in one pass; resumes from what ``folder`` holds.

    Returns
    -------
    Memory maps: of each network ``NAME/features`` float32 (n, n_features) and ``NAME/probabilities`` float32
    (n, n_classes), and ``images`` uint8 (n, H, W, C); those that ``keep`` names.
    """
    row: dict[str, tuple[str, tuple[int, ...]]] = {}
    for network in networks:
        widths = {"features": network.n_features, "probabilities": network.n_classes}
        row |= {f"{network.name}/{kind}": ("<f4", (width,)) for kind, width in widths.items() if kind in keep}
    if "images" in keep:
        row["images"] = ("|u1", images.shape)
    arrays = GrowingArrays(folder, row)
    with Progress(what, total=images.n, unit="images", done=arrays.done) as progress:
        while arrays.done < images.n:
            batch = images.batch(arrays.done // images.batch_size)[: images.n - arrays.done]
            found = {"images": batch}
            for network in networks:
                features, probabilities = network.network.judge(batch)
                found |= {f"{network.name}/features": features, f"{network.name}/probabilities": probabilities}
            arrays.add({name: found[name] for name in row})
            progress.advance(len(batch))
    return arrays.read()


# ---- scores ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What the stage ``score`` writes.

    Attributes
    ----------
    table : seed, quantity, split, value, n_images (that this quantity was computed on), n_labels
    over_steps : seed, step, quantity, value (the score in one part), n_images: of every generator kept on the way and
        the last one; of real images one row, of step -1
    record : what the table's notes say of the run
    images : uint8 (S, n_kept, H, W, C)
    top : uint8 (k, H, W, C), best first
    kl : float32 (n,), nats
    n_judged : images, those of reference among them
    """

    table: pd.DataFrame
    over_steps: pd.DataFrame
    record: dict[str, Any]
    images: np.ndarray
    top: np.ndarray
    kl: np.ndarray
    n_judged: int


def measures(
    networks: Sequence[Judging], real: Mapping[str, np.ndarray], fake: Mapping[str, np.ndarray], config: Score
) -> list[dict[str, Any]]:
    """Rows ``quantity, split, value, n_images`` of scored images (``fake``) beside images of reference (``real``).

    Both are drawn in no order, so that the first so many of each stand for all.
    """
    rows: list[dict[str, Any]] = []

    def add(quantity: str, value: float, n_images: int, split: int = NONE) -> None:
        rows.append({"quantity": quantity, "split": split, "value": float(value), "n_images": n_images})

    for network in networks:
        prefix, probabilities = network.name, fake[f"{network.name}/probabilities"]
        of_real, of_fake = real[f"{prefix}/features"], fake[f"{prefix}/features"]
        n, few = len(of_fake), config.n_neighbour_images
        for split, value in enumerate(scores.class_score(probabilities, config.n_splits)):
            add(f"{prefix}_score", value, n, split)
        add(f"{prefix}_frechet", scores.frechet_distance(of_real, of_fake), n)
        subsets = {"n_subsets": config.kernel_subsets, "subset_size": config.kernel_subset_size}
        add(f"{prefix}_kernel", scores.kernel_distance(of_real, of_fake, seed=config.seed, **subsets), n)
        near = scores.neighbour_measures(of_real[:few], of_fake[:few], k=config.neighbours)
        for name in ("precision", "recall", "density", "coverage"):
            add(f"{prefix}_{name}", getattr(near, name), few)
    return rows


def best_first(kl: np.ndarray, config: Score) -> np.ndarray:
    """Numbers of the ``top_share`` of images with the highest divergence, the earlier among equals first."""
    return np.argsort(-kl, kind="stable")[: config.n_top(len(kl))]


def divergence(networks: Sequence[Judging], found: Mapping[str, np.ndarray]) -> np.ndarray:
    """float32 (n,): KL(p(y|x) || p(y)) of each image, by the last network: Inception's, where there is one."""
    return scores.image_divergence(found[f"{networks[-1].name}/probabilities"]).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Task:
    """What one stage scores with.

    Attributes
    ----------
    name : of the row: ``real``, or the run
    image_set : whose images the generators imitate and the classifier has learnt
    networks : the classifier and, where it may be reported, the Inception network
    """

    name: str
    image_set: ImageSet
    config: Score
    classifier: Classifier
    networks: Sequence[Judging]
    gate: Gate
    compute: Compute
    scratch: Path


def task_of(
    name: str, image_set: ImageSet, config: Score, classifier: Classifier, gate: Gate, compute: Compute, scratch: Path
) -> Task:
    """Loads the Inception network, unless the gate forbids it."""
    networks = [of_classifier(classifier)]
    if config.inception is not None and not gate.refusal:
        networks.append(of_inception(inception.load(config.inception, compute)))
    return Task(
        name=name,
        image_set=image_set,
        config=config,
        classifier=classifier,
        networks=networks,
        gate=gate,
        compute=compute,
        scratch=scratch,
    )


def score_real(task: Task) -> Scored:
    """Training images in the place of generated ones; distances and neighbours are those to test images.

    Raises
    ------
    InputError
        If there are too few images for the params, or they are of another size than the classifier takes.
    """
    image_set, config = task.image_set, task.config
    check_size(image_set.images.shape[1:], task.classifier, image_set.path)
    rows = drawn(image_set.rows("train"), config.n_images, config.seed, "train")
    if refusal := config.refusal(len(rows), f"training images of {image_set.path}"):
        message = f"params, score: {refusal}"
        raise InputError(message)
    reference = judged_reference(task, "test")
    images = stored_images(image_set, rows, config.batch_size)
    keep: Sequence[Kind] = ("features", "probabilities")
    found = judged(images, task.networks, task.scratch / "scored", what="score real images", keep=keep)
    kl = divergence(task.networks, found)
    numbers = [{"seed": NONE, **row} for row in measures(task.networks, reference, found, config)]
    return Scored(
        table=table_of(task, numbers, n_labels=0),
        over_steps=over_steps_of(scores_in_one_part(task, found, seed=NONE, step=NONE)),
        record=record_of(task, n_images=len(rows), reference="test", n_reference=n_rows(reference)),
        images=image_set.images[rows[: config.n_kept]][None],
        top=image_set.images[rows[best_first(kl, config)]],
        kl=kl,
        n_judged=len(rows) + n_rows(reference),
    )


def score_run(task: Task, model: Path) -> Scored:
    """Images of every seed of a run, one seed after the other, beside training images.

    Raises
    ------
    InputError
        If the model has no generator, images are of another size than the classifier takes, or real images are too few
        for the params.
    """
    image_set, config = task.image_set, task.config
    run, steps = read_scored_run(model)
    channels, height, width = improved.image_shape(run.architecture)
    check_size((height, width, channels), task.classifier, model)
    check_size(image_set.images.shape[1:], task.classifier, image_set.path)
    reference = judged_reference(task, "train")
    numbers: list[dict[str, Any]] = []
    numbers_over_steps: list[dict[str, Any]] = []
    kept: list[np.ndarray] = []
    first: dict[str, np.ndarray] = {}
    for seed in run.seeds:
        generator = read_generator(model, run, seed)
        images = generated_images(generator, run, config, task.compute, f"{model}, seed {seed}")
        folder, what = task.scratch / f"seed{seed}", f"score {task.name}, seed {seed}"
        found = judged(images, task.networks, folder, what=what, keep=("features", "probabilities", "images"))
        numbers += [{"seed": seed, **row} for row in measures(task.networks, reference, found, config)]
        numbers_over_steps += scores_on_the_way(task, model, run, seed, steps)
        numbers_over_steps += scores_in_one_part(task, found, seed=seed, step=steps)
        kept.append(np.array(found["images"][: config.n_kept]))
        first = first or found
    kl = divergence(task.networks, first)
    record = record_of(task, n_images=config.n_images, reference="train", n_reference=n_rows(reference))
    return Scored(
        table=table_of(task, numbers, n_labels=run.n_labels),
        over_steps=over_steps_of(numbers_over_steps),
        record=record | told_of(run, steps),
        images=np.stack(kept),
        top=np.array(first["images"][best_first(kl, config)]),
        kl=kl,
        n_judged=len(run.seeds) * config.n_images + n_rows(reference) + n_on_the_way(run, config, steps),
    )


def scores_on_the_way(task: Task, model: Path, run: Run, seed: int, steps: int) -> list[dict[str, Any]]:
    """Scores of the generators of a seed that were kept before the end, each on the same z."""
    config, rows = task.config, []
    for step in snapshot_steps(run.n_snapshots, steps)[:-1]:
        generator = read_generator(model, run, seed, snapshot_name(step))
        images = generated_images(generator, run, config, task.compute, f"{model}, seed {seed}, step {step}")
        few = replace(images, n=config.n_images_over_steps)
        folder, what = task.scratch / f"seed{seed}-step{step}", f"score {task.name}, seed {seed}, step {step}"
        found = judged(few, task.networks, folder, what=what, keep=("probabilities",))
        rows += scores_in_one_part(task, found, seed=seed, step=step)
    return rows


def n_on_the_way(run: Run, config: Score, steps: int) -> int:
    """Images that :func:`scores_on_the_way` has judged, of all seeds."""
    return len(run.seeds) * (len(snapshot_steps(run.n_snapshots, steps)) - 1) * config.n_images_over_steps


def scores_in_one_part(task: Task, found: Mapping[str, np.ndarray], *, seed: int, step: int) -> list[dict[str, Any]]:
    """A row for each network: the score of the first ``n_images_over_steps`` images, not split."""
    rows = []
    for network in task.networks:
        few = found[f"{network.name}/probabilities"][: task.config.n_images_over_steps]
        score = float(scores.class_score(few, 1)[0])
        rows.append(
            {"seed": seed, "step": step, "quantity": f"{network.name}_score", "value": score, "n_images": len(few)}
        )
    return rows


def over_steps_of(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Those rows as a table, by seed and step."""
    return pd.DataFrame(rows, columns=list(OVER_STEPS)).sort_values(["seed", "step"], kind="stable", ignore_index=True)


def judged_reference(task: Task, split: str) -> dict[str, np.ndarray]:
    """Features of real images to compare with: at most ``n_images`` of a split, drawn by the seed.

    Raises
    ------
    InputError
        If the split has fewer images than the neighbour measures or a subset of the kernel distance take.
    """
    image_set, config = task.image_set, task.config
    rows = drawn(image_set.rows(split), config.n_images, config.seed, split)
    for key in ("n_neighbour_images", "kernel_subset_size"):
        if (asked := getattr(config, key)) > len(rows):
            message = (
                f"{image_set.path}: split '{split}' has {len(rows)} images, params, score.{key} asks for {asked} of "
                f"them to compare with; lower {key} to at most {len(rows)}"
            )
            raise InputError(message)
    images = stored_images(image_set, rows, config.batch_size)
    folder, what = task.scratch / "reference", f"{split} images to compare with"
    return judged(images, task.networks, folder, what=what, keep=("features",))


def n_rows(found: Mapping[str, np.ndarray]) -> int:
    """Images that :func:`judged` was given."""
    return len(next(iter(found.values())))


def table_of(task: Task, numbers: list[dict[str, Any]], *, n_labels: int) -> pd.DataFrame:
    """The rows of all seeds, then the classifier's accuracy and, where it was run, the gate."""
    accuracy = {"quantity": "classifier_accuracy", "value": task.classifier.accuracy_percent}
    numbers = [*numbers, accuracy | {"n_images": task.classifier.n_test}]
    if task.gate.sha256:
        numbers.append({"quantity": "gate", "value": task.gate.score, "n_images": inception.GATE_SHAPE[0]})
    table = pd.DataFrame([{"seed": NONE, "split": NONE, "n_labels": n_labels} | row for row in numbers])
    types = {"seed": "int64", "split": "int64", "value": "float64", "n_images": "int64", "n_labels": "int64"}
    return table[list(COLUMNS)].astype(types)


def record_of(task: Task, *, n_images: int, reference: str, n_reference: int) -> dict[str, Any]:
    """What the notes of the table say; as of real images, which were not trained: :func:`told_of` adds a run's."""
    gate = task.gate
    return {
        "run": task.name,
        "n_images": n_images,
        "n_splits": task.config.n_splits,
        "n_neighbour_images": task.config.n_neighbour_images,
        "reference": reference,  # the split that distances and neighbours are measured against
        "n_reference": n_reference,
        "ranked_by": task.networks[-1].name,
        "inception": gate.refusal or {"sha256": gate.sha256, "gate": gate.score},
        "steps": 0,
        "epochs": 0,
        "batch_size": 0,
        "n_labels": 0,
        "n_seeds": 0,
        "params": {},
    }


def told_of(run: Run, steps: int) -> dict[str, Any]:
    """What :func:`record_of` leaves out."""
    return {
        "steps": steps,
        "epochs": run.epochs,
        "batch_size": run.batch_size,
        "n_labels": run.n_labels,
        "n_seeds": len(run.seeds),
        "params": asdict(run),
    }


# ---- models ---------------------------------------------------------------------------------------------------------


def read_scored_run(model: Path) -> tuple[Run, int]:
    """The params and the steps of the run that a model folder holds.

    Raises
    ------
    InputError
        If it is not a semi-supervised run, the only kind whose generators are scored, or has several labelled subsets.
    """
    record = read_run(model)
    try:
        run = TypeAdapter(Run).validate_json(json.dumps(record["params"]))  # strict mode takes no dict for a section
        steps = int(record["steps"])
    except (ValidationError, KeyError, TypeError) as error:
        message = (
            f"{model}: its run.json is not that of a run of `semisup.runs`, so it has no generator that can be scored; "
            "name the folder of such a run"
        )
        raise InputError(message) from error
    if len(run.splits) != 1:
        message = (
            f"{model}: a run of {len(run.splits)} labelled subsets ({', '.join(map(str, run.splits))}); scores are "
            "told by seed alone, so give it one in splits"
        )
        raise InputError(message)
    return run, steps


def read_generator(model: Path, run: Run, seed: int, name: str = "generator") -> nn.Module:
    """The generator of one seed; ``name``: that of a snapshot, for one kept on the way.

    Raises
    ------
    InputError
        If there is none, or it is another network's.
    """
    prefix = f"seed{seed}/split{run.splits[0]}/{name}"
    tensors = read_tensors(model / NETWORKS_FILE, f"{prefix}/")
    if not tensors:
        message = f"{model}/{NETWORKS_FILE}: no generator ('{prefix}'); remove the folder and run dvc repro"
        raise InputError(message)
    generator = improved.build_generator(run.architecture, 1)
    load_into(generator, tensors, prefix, model)
    return generator


def check_size(found: tuple[int, ...], classifier: Classifier, where: Path) -> None:
    """Refuse images of another size than the classifier was trained on."""
    if tuple(found) != classifier.image_shape:
        message = (
            f"{where}: images of {' x '.join(map(str, found))}, the classifier that scores them was trained on "
            f"{' x '.join(map(str, classifier.image_shape))}; score a run of that set"
        )
        raise InputError(message)
