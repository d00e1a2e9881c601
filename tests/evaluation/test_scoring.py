"""Scoring passes: what is judged, that an interrupted pass goes on, that the numbers are the scores' definitions."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from made_scoring import COMPUTE, CONFIG, N_TEST, N_TRAIN, made_classifier, made_model, made_run, made_set

from pipeline.core.errors import InputError
from pipeline.core.seeding import torch_stream
from pipeline.core.store import ImageSet
from pipeline.evaluation import inception, scores, scoring
from pipeline.evaluation.inception import Inception
from pipeline.evaluation.scoring import GrowingArrays, Score, Scored, Task
from pipeline.models import improved
from pipeline.models.classifier import Classifier
from pipeline.models.store import NETWORKS_FILE, read_run, read_tensors, write_model, write_tensors
from pipeline.training.semisupervised import Run

NOT_RUN = scoring.Gate(sha256="", score=float("nan"), refusal="not run: no weights")
WEIGHTS = Inception(file="weights.pth", url="https://example.org/weights.pth", sha256="a" * 64)
PASSED = scoring.Gate(sha256="a" * 64, score=11.2368, refusal="")


class Brightness:
    """A network of two features and three classes that a test can compute by itself."""

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []

    def judge(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.seen.append(images)
        light = images.reshape(len(images), -1).astype(np.float32) / 255
        features = np.stack([light.mean(axis=1), light.std(axis=1)], axis=1)
        p = np.exp(20 * np.stack([features[:, 0], 0.5 - features[:, 0], features[:, 1]], axis=1))
        return features, (p / p.sum(axis=1, keepdims=True)).astype(np.float32)


def brightness(name: str = "classifier") -> scoring.Judging:
    return scoring.Judging(name=name, network=Brightness(), n_features=2, n_classes=3)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[ImageSet, Classifier, Path]:
    """A set, its classifier, and the folder that both lie in."""
    folder = tmp_path_factory.mktemp("scoring")
    image_set = made_set(folder / "set")
    return image_set, made_classifier(folder / "classifier", image_set), folder


def task_in(
    world: tuple[ImageSet, Classifier, Path],
    scratch: Path,
    config: Score = CONFIG,
    gate: scoring.Gate = NOT_RUN,
    **changes: object,
) -> Task:
    image_set, classifier, _ = world
    task = scoring.task_of("made", image_set, config, classifier, gate, COMPUTE, scratch)
    return dataclasses.replace(task, **changes)


def values(scored: Scored, quantity: str, seed: int) -> list[float]:
    table = scored.table
    return table.loc[(table["quantity"] == quantity) & (table["seed"] == seed), "value"].tolist()


# ---- params ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"n_splits": 23}, r"n_splits is 23, more than the 22 images that are scored \(n_images 22\); lower n_splits"),
        ({"n_kept": 23}, "n_kept is 23, more than the 22 images"),
        ({"n_neighbour_images": 23}, "n_neighbour_images is 23, more than"),
        ({"kernel_subset_size": 23}, "kernel_subset_size is 23, more than"),
        ({"top_share": 0.045}, r"top_share 0.045 of the 22 images .* is less than one image; write 0.0454545 or more"),
        ({"neighbours": 12}, "neighbours is 12: each of n_neighbour_images 12 has fewer others; lower neighbours"),
    ],
)
def test_settings_that_do_not_go_together(changes: dict[str, object], match: str):
    with pytest.raises(ValueError, match=match):
        dataclasses.replace(CONFIG, **changes)


def test_shares_are_not_lost_to_rounding():
    shares = {0.29: 29, 0.07: 7, 0.055: 5, 1.0: 100}
    assert {share: dataclasses.replace(CONFIG, top_share=share).n_top(100) for share in shares} == shares


# ---- files ----------------------------------------------------------------------------------------------------------


def growing(folder: Path) -> GrowingArrays:
    return GrowingArrays(folder, {"net/features": ("<f4", (2,)), "images": ("|u1", (2, 2, 1))})


def block(n: int, start: int) -> dict[str, np.ndarray]:
    numbers = np.arange(start, start + n)
    features = np.stack([numbers, -numbers], axis=1).astype(np.float32)
    return {"net/features": features, "images": np.broadcast_to(numbers[:, None, None, None], (n, 2, 2, 1))}


def assert_holds(arrays: GrowingArrays, n: int) -> None:
    found, expected = arrays.read(), block(n, 0)
    assert arrays.done == n
    for name, array in expected.items():
        assert np.array_equal(found[name], array)
    assert (found["net/features"].dtype, found["images"].dtype) == (np.float32, np.uint8)


def test_blocks_are_appended_and_found_again(tmp_path: Path):
    arrays = growing(tmp_path)
    arrays.add(block(3, 0))
    arrays.add(block(4, 3))
    assert_holds(arrays, 7)
    again = growing(tmp_path)
    assert_holds(again, 7)
    again.add(block(2, 7))
    assert_holds(again, 9)


def test_half_a_block_is_cut_off(tmp_path: Path):
    """A kill between the two files, or in the middle of a row."""
    growing(tmp_path).add(block(3, 0))
    with (tmp_path / "net-features.bin").open("ab") as file:
        file.write(b"\xff" * 13)
    arrays = growing(tmp_path)
    assert_holds(arrays, 3)
    arrays.add(block(1, 3))
    assert_holds(arrays, 4)


def test_rows_that_a_crash_lost_are_made_again(tmp_path: Path):
    growing(tmp_path).add(block(3, 0))
    with (tmp_path / "images.bin").open("r+b") as file:
        file.truncate(7)
    arrays = growing(tmp_path)
    assert arrays.done == 0
    arrays.add(block(2, 0))
    assert_holds(arrays, 2)


def test_blocks_that_do_not_fit(tmp_path: Path):
    arrays = growing(tmp_path)
    with pytest.raises(ValueError, match="blocks of images with"):
        arrays.add({"images": np.zeros((1, 2, 2, 1))})
    with pytest.raises(ValueError, match="blocks of"):
        arrays.add(block(2, 0) | {"images": np.zeros((1, 2, 2, 1))})
    with pytest.raises(ValueError, match=r"images: rows of shape \(2, 3, 1\), expected \(2, 2, 1\)"):
        arrays.add(block(2, 0) | {"images": np.zeros((2, 2, 3, 1))})
    assert arrays.done == 0


# ---- images ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reference_batch", "joined"), [(0, 1), (3, 4)])
def test_generated_images_are_those_of_batch_statistics_rounded(tmp_path: Path, reference_batch: int, joined: int):
    """Batch 2, whatever came before it: z from their own streams, G as in training, levels of 256.

    With virtual batch norm four batches are made at once; each is what it would be by itself.
    """
    run = made_run(reference_batch=reference_batch)
    model = made_model(tmp_path / "model", run)
    generator = scoring.read_generator(model, run, 7).eval()
    images = scoring.generated_images(generator, run, CONFIG, COMPUTE, "made")
    found = images.batch(2)
    assert (found.dtype, images.n, images.shape, images.batch_size) == (np.uint8, 22, (32, 32, 3), 5 * joined)
    assert found.shape == (5 * joined, 32, 32, 3)
    for part in range(joined):
        z = torch.rand(5, 5, generator=torch_stream(6, "score z", 2 * joined + part))
        with torch.no_grad():
            pixels = scoring.read_generator(model, run, 7).train()(z[None])[0]
        levels = (pixels * 128 + 127.5).permute(0, 2, 3, 1).numpy()
        assert np.abs(found[5 * part : 5 * part + 5] - levels.clip(0, 255)).max() <= 0.501
    assert not np.array_equal(found, images.batch(1))
    assert np.array_equal(found, images.batch(2))


def test_real_images_come_in_a_drawn_order(world: tuple[ImageSet, Classifier, Path]):
    """Each once; a set sorted by class does not give splits of one class; another seed, another order."""
    image_set = world[0]
    rows = image_set.rows("train")
    chosen = scoring.drawn(rows, 22, 6, "train")
    assert len(set(chosen)) == 22
    assert set(chosen) <= set(rows)
    assert len(set(image_set.labels(chosen[:7]))) > 3
    assert np.array_equal(chosen[:9], scoring.drawn(rows, 9, 6, "train"))
    assert not np.array_equal(chosen, scoring.drawn(rows, 22, 7, "train"))
    images = scoring.stored_images(image_set, chosen, 5)
    batches = [images.batch(number) for number in range(5)]
    assert [len(batch) for batch in batches] == [5, 5, 5, 5, 2]
    assert np.array_equal(np.concatenate(batches), image_set.images[chosen])


def test_images_that_are_no_numbers(tmp_path: Path):
    run = made_run()
    generator = scoring.read_generator(made_model(tmp_path / "model", run), run, 4)
    with torch.no_grad():
        next(generator.parameters()).fill_(torch.nan)
    with pytest.raises(InputError, match=r"seed 4: generated images are not finite; .* train it again"):
        scoring.generated_images(generator, run, CONFIG, COMPUTE, "seed 4").batch(0)


# ---- the pass -------------------------------------------------------------------------------------------------------


def numbered(n: int, batch_size: int = 5) -> scoring.Images:
    """Image i has the level i everywhere; batches are whole, also the last."""

    def batch(number: int) -> np.ndarray:
        levels = np.arange(number * batch_size, (number + 1) * batch_size, dtype=np.uint8)
        return np.broadcast_to(levels[:, None, None, None], (batch_size, 4, 4, 3)).copy()

    return scoring.Images(batch=batch, batch_size=batch_size, n=n, shape=(4, 4, 3))


def test_every_image_is_judged_once_by_every_network(tmp_path: Path):
    networks = [brightness(), brightness("inception")]
    keep = ("features", "probabilities", "images")
    found = scoring.judged(numbered(12), networks, tmp_path, what="made", keep=keep)
    assert sorted(found) == [
        "classifier/features",
        "classifier/probabilities",
        "images",
        "inception/features",
        "inception/probabilities",
    ]
    assert found["images"][:, 1, 2, 0].tolist() == list(range(12))
    for row in range(12):
        features, p = Brightness().judge(found["images"][row : row + 1])
        for name in ("classifier", "inception"):
            assert np.array_equal(found[f"{name}/features"][row], features[0])
            np.testing.assert_allclose(found[f"{name}/probabilities"][row], p[0], rtol=1e-6)
    for network in networks:
        assert [len(images) for images in network.network.seen] == [5, 5, 2]


def test_only_what_is_kept_is_stored(tmp_path: Path):
    found = scoring.judged(numbered(12), [brightness()], tmp_path, what="made", keep=("features",))
    assert [*found] == ["classifier/features"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["classifier-features.bin", "rows"]


@pytest.mark.parametrize("dies_at", [0, 1, 2])
def test_a_killed_pass_goes_on_behind_its_last_batch(tmp_path: Path, dies_at: int):
    keep = ("features", "probabilities", "images")
    unbroken = scoring.judged(numbered(12), [brightness()], tmp_path / "a", what="made", keep=keep)
    images, asked = numbered(12), []

    def dying(number: int) -> np.ndarray:
        if number == dies_at:
            raise KeyboardInterrupt
        return images.batch(number)

    broken = dataclasses.replace(images, batch=dying)
    with pytest.raises(KeyboardInterrupt):
        scoring.judged(broken, [brightness()], tmp_path / "b", what="made", keep=keep)
    told = dataclasses.replace(images, batch=lambda number: (asked.append(number), images.batch(number))[1])
    resumed = scoring.judged(told, [brightness()], tmp_path / "b", what="made", keep=keep)
    assert asked == list(range(dies_at, 3))
    for name, array in unbroken.items():
        assert array.tobytes() == resumed[name].tobytes()


# ---- scores of a run ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scored(world: tuple[ImageSet, Classifier, Path]) -> Scored:
    model = made_model(world[2] / "scored model", made_run())
    return scoring.score_run(task_in(world, world[2] / "scored"), model)


def by_hand(
    world: tuple[ImageSet, Classifier, Path], model: Path, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images, features and probabilities of 22 images, from five batches of five."""
    run = scoring.read_scored_run(model)[0]
    source = scoring.generated_images(scoring.read_generator(model, run, seed), run, CONFIG, COMPUTE, "made")
    images = np.concatenate([source.batch(number) for number in range(5)])[:22]
    return images, *world[1].judge(images)


def test_numbers_are_the_scores_of_its_images(world: tuple[ImageSet, Classifier, Path], scored: Scored):
    """Each seed's own, beside 22 training images in their drawn order."""
    image_set, classifier, folder = world
    rows = scoring.drawn(image_set.rows("train"), 22, 6, "train")
    real, _ = classifier.judge(image_set.images[rows])
    for seed in (4, 7):
        _, fake, p = by_hand(world, folder / "scored model", seed)
        assert values(scored, "classifier_score", seed) == pytest.approx(scores.class_score(p, 3).tolist(), rel=1e-4)
        expected = {
            "frechet": scores.frechet_distance(real, fake),
            "kernel": scores.kernel_distance(real, fake, seed=6, n_subsets=3, subset_size=8),
        }
        expected |= dataclasses.asdict(scores.neighbour_measures(real[:12], fake[:12], k=2))
        for name, value in expected.items():
            (found,) = values(scored, f"classifier_{name}", seed)
            assert found == pytest.approx(value, rel=1e-3, abs=1e-6), name
    assert values(scored, "classifier_score", 4) != values(scored, "classifier_score", 7)


def test_the_table(scored: Scored):
    table = scored.table
    assert {name: str(kind) for name, kind in table.dtypes.items() if name != "quantity"} == {
        "seed": "int64",
        "split": "int64",
        "value": "float64",
        "n_images": "int64",
        "n_labels": "int64",
    }
    assert [*table.columns] == ["seed", "quantity", "split", "value", "n_images", "n_labels"]
    names = [*["score"] * 3, "frechet", "kernel", "precision", "recall", "density", "coverage"]
    expected = [(seed, f"classifier_{name}") for seed in (4, 7) for name in names] + [(-1, "classifier_accuracy")]
    assert list(zip(table["seed"], table["quantity"], strict=True)) == expected
    assert table["split"].tolist() == [0, 1, 2, *[-1] * 6] * 2 + [-1]
    assert table["n_images"].tolist() == [*[22] * 5, *[12] * 4] * 2 + [N_TEST]
    assert set(table["n_labels"]) == {20}
    assert values(scored, "classifier_accuracy", -1) == [62.5]
    assert not table["quantity"].str.startswith("inception").any()


def test_the_score_over_the_steps_is_that_of_the_generators_kept_on_the_way(
    world: tuple[ImageSet, Classifier, Path], scored: Scored
):
    """Of nine steps the fifth, when both seeds have the generator that seed 7 ends with, and the last."""
    run = made_run(n_snapshots=2)
    model = made_model(world[2] / "kept on the way", run)
    tensors = read_tensors(model / NETWORKS_FILE)
    of_7 = {name: tensor for name, tensor in tensors.items() if name.startswith("seed7/")}
    for name, tensor in of_7.items():
        kept = name.replace("/generator/", "/generator_step5/")
        tensors |= {kept: tensor, kept.replace("seed7", "seed4"): tensor.clone()}
    write_tensors(model / NETWORKS_FILE, {name: tensor.clone() for name, tensor in tensors.items()})
    found = scoring.score_run(task_in(world, world[2] / "over steps"), model).over_steps
    assert [*found.columns] == ["seed", "step", "quantity", "value", "n_images"]
    assert list(zip(found["seed"], found["step"], strict=True)) == [(4, 5), (4, 9), (7, 5), (7, 9)]
    assert set(found["n_images"]) == {9}
    scores_of = {seed: scores.class_score(by_hand(world, model, seed)[2][:9], 1)[0] for seed in (4, 7)}
    expected = [scores_of[seed] for seed in (7, 4, 7, 7)]
    assert found["value"].tolist() == pytest.approx(expected, rel=1e-4)
    last = scored.over_steps  # of a run that kept none
    assert list(zip(last["seed"], last["step"], strict=True)) == [(4, 9), (7, 9)]
    assert last["value"].tolist() == pytest.approx([scores_of[4], scores_of[7]], rel=1e-4)


def test_a_snapshot_that_is_missing(world: tuple[ImageSet, Classifier, Path], tmp_path: Path):
    model = made_model(tmp_path / "model", made_run(n_snapshots=2))
    with pytest.raises(InputError, match=r"no generator \('seed4/split0/generator_step5'\).*dvc repro"):
        scoring.score_run(task_in(world, tmp_path), model)


def test_images_that_are_kept(world: tuple[ImageSet, Classifier, Path], scored: Scored):
    """The first ones of each seed; of the first seed the two of 22 that stand out most, best first."""
    assert scored.images.shape == (2, 4, 32, 32, 3)
    assert (scored.images.dtype, scored.top.dtype, scored.kl.dtype) == (np.uint8, np.uint8, np.float32)
    for number, seed in enumerate((4, 7)):
        assert np.array_equal(scored.images[number], by_hand(world, world[2] / "scored model", seed)[0][:4])
    images, _, p = by_hand(world, world[2] / "scored model", 4)
    mean = p.astype(np.float64).mean(axis=0)
    kl = [sum(q * np.log(q / m) for q, m in zip(row, mean, strict=True)) for row in p.astype(np.float64)]
    np.testing.assert_allclose(scored.kl, kl, rtol=1e-3, atol=1e-7)
    first, second = sorted(range(22), key=lambda image: -kl[image])[:2]
    assert np.array_equal(scored.top, images[[first, second]])


def test_the_record(world: tuple[ImageSet, Classifier, Path], scored: Scored):
    record = scored.record
    assert json.loads(json.dumps(record)) == record
    expected = {"run": "made", "n_images": 22, "steps": 9, "epochs": 3, "batch_size": 8, "n_labels": 20, "n_seeds": 2}
    expected |= {"inception": "not run: no weights", "reference": "train", "n_reference": 22, "ranked_by": "classifier"}
    assert {key: record[key] for key in expected} == expected
    assert record["params"] == read_run(world[2] / "scored model")["params"]
    assert scored.n_judged == 2 * 22 + 22


def test_equal_images_are_ranked_by_their_number():
    kl = np.array([0.5, 2.0, 0.5, 2.0, 1.0], dtype=np.float32)
    assert scoring.best_first(kl, dataclasses.replace(CONFIG, top_share=0.8)).tolist() == [1, 3, 4, 0]


def test_real_images_beside_test_images(world: tuple[ImageSet, Classifier, Path], tmp_path: Path):
    """All 30 training images, as there are no more, and all 15 test images; no run, no labels."""
    image_set, classifier, _ = world
    config = dataclasses.replace(CONFIG, n_images=40)
    found = scoring.score_real(task_in(world, tmp_path, config))
    rows = scoring.drawn(image_set.rows("train"), 40, 6, "train")
    of_train, p = classifier.judge(image_set.images[rows])
    of_test, _ = classifier.judge(image_set.images[scoring.drawn(image_set.rows("test"), 40, 6, "test")])
    assert values(found, "classifier_score", -1) == pytest.approx(scores.class_score(p, 3).tolist(), rel=1e-4)
    near = scores.neighbour_measures(of_test[:12], of_train[:12], k=2)
    assert values(found, "classifier_recall", -1) == pytest.approx([near.recall])
    frechet = scores.frechet_distance(of_test, of_train)
    assert values(found, "classifier_frechet", -1) == pytest.approx([frechet], rel=1e-3)
    assert set(found.table["seed"]) == {-1}
    assert set(found.table["n_labels"]) == {0}
    assert found.images.shape == (1, 4, 32, 32, 3)
    assert np.array_equal(found.images[0], image_set.images[rows[:4]])
    best = np.argsort(-found.kl, kind="stable")[:3]
    assert np.array_equal(found.top, image_set.images[rows[best]])
    expected = {"n_images": N_TRAIN, "n_reference": N_TEST, "reference": "test", "n_seeds": 0, "params": {}}
    assert {key: found.record[key] for key in expected} == expected


# ---- Inception ------------------------------------------------------------------------------------------------------


def test_with_inception_every_measure_is_there_twice(
    world: tuple[ImageSet, Classifier, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The second network gives its own numbers, ranks the images, and the gate is told."""
    monkeypatch.setattr(inception, "N_FEATURES", 2)
    monkeypatch.setattr(inception, "N_CLASSES", 3)
    monkeypatch.setattr(inception, "load", lambda settings, compute: Brightness())
    config = dataclasses.replace(CONFIG, inception=WEIGHTS)
    found = scoring.score_run(task_in(world, tmp_path / "a", config, PASSED), made_model(tmp_path / "m", made_run()))
    names = found.table.loc[found.table["seed"] == 4, "quantity"].str.partition("_")
    mine, theirs = (names.loc[names[0] == name, 2].tolist() for name in ("classifier", "inception"))
    assert mine == theirs
    assert len(mine) == 9
    _, p = Brightness().judge(by_hand(world, tmp_path / "m", 4)[0])
    assert values(found, "inception_score", 4) == pytest.approx(scores.class_score(p, 3).tolist(), rel=1e-4)
    assert values(found, "inception_score", 4) != values(found, "classifier_score", 4)
    np.testing.assert_allclose(found.kl, scores.image_divergence(p), rtol=1e-3, atol=1e-6)
    (gate,) = found.table[found.table["quantity"] == "gate"].to_dict("records")
    assert (gate["seed"], gate["split"], gate["value"], gate["n_images"]) == (-1, -1, 11.2368, 50_000)
    assert found.record["inception"] == {"sha256": "a" * 64, "gate": 11.2368}
    assert found.record["ranked_by"] == "inception"


def gate_of(tmp_path: Path, content: str, config: Score) -> scoring.Gate:
    (tmp_path / "gate.json").write_text(content)
    return scoring.read_gate(tmp_path / "gate.json", config)


def test_no_number_of_inception_without_its_gate(
    world: tuple[ImageSet, Classifier, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Its weights are not even looked for; the classifier's scores are there all the same."""

    def refuse(settings: Inception, compute: object) -> None:
        raise AssertionError

    monkeypatch.setattr(inception, "load", refuse)
    config = dataclasses.replace(CONFIG, inception=WEIGHTS)
    gate = gate_of(tmp_path, json.dumps({"sha256": "a" * 64, "score": 9.7}), config)
    assert "not run: inception: CIFAR-10's training images score 9.7000; expected 11.24" in gate.refusal
    found = scoring.score_real(task_in(world, tmp_path / "a", config, gate))
    assert not found.table["quantity"].str.startswith("inception").any()
    assert values(found, "gate", -1) == [9.7]
    assert found.record["inception"] == gate.refusal


def test_what_the_gate_says(tmp_path: Path):
    config = dataclasses.replace(CONFIG, inception=WEIGHTS)
    passed = json.dumps({"sha256": "a" * 64, "score": 11.2368})
    assert gate_of(tmp_path, passed, config) == PASSED
    others = dataclasses.replace(WEIGHTS, sha256="b" * 64)
    other = gate_of(tmp_path, passed, dataclasses.replace(config, inception=others))
    assert other.refusal == "not run: the gate was run with another weight file (sha256 aaaaaaaaaaaaaaaa)"
    assert "names no weight file" in gate_of(tmp_path, passed, CONFIG).refusal
    not_run = gate_of(tmp_path, '{"not_run": "no weights"}', config)
    assert (not_run.sha256, not_run.refusal) == ("", "not run: no weights")
    for content in ("", "[]", "{}", '{"sha256": "a", "score": "high"}', "7"):
        with pytest.raises(InputError, match=r"gate\.json: not the record of the Inception gate"):
            gate_of(tmp_path, content, config)
    (tmp_path / "gate.json").unlink()
    with pytest.raises(InputError, match=r"gate\.json: missing; run the stage inception_gate"):
        scoring.read_gate(tmp_path / "gate.json", config)


def test_the_gate_is_run_on_all_training_images(
    world: tuple[ImageSet, Classifier, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    image_set = world[0]
    assert "names no weight file" in scoring.run_gate(image_set, CONFIG, COMPUTE, tmp_path)["not_run"]
    config = dataclasses.replace(CONFIG, inception=WEIGHTS)
    assert scoring.run_gate(image_set, config, COMPUTE, tmp_path) == {
        "not_run": "the 30 training images are not those of CIFAR-10 that the gate's number is of"
    }
    monkeypatch.setattr(inception, "GATE_SHAPE", (N_TRAIN, 32, 32, 3))
    monkeypatch.setattr(inception, "is_gate_set", lambda images: len(images) == N_TRAIN)
    monkeypatch.setattr(inception, "N_FEATURES", 2)
    monkeypatch.setattr(inception, "N_CLASSES", 3)
    network = Brightness()
    monkeypatch.setattr(inception, "load", lambda settings, compute: network)
    found = scoring.run_gate(image_set, config, COMPUTE, tmp_path)
    seen = np.concatenate(network.seen)
    rows = image_set.rows("train")
    assert sorted(image.tobytes() for image in seen) == sorted(image.tobytes() for image in image_set.images[rows])
    assert not np.array_equal(seen, image_set.images[rows])
    _, p = Brightness().judge(seen)
    assert found == {"sha256": "a" * 64, "score": pytest.approx(scores.class_score(p, 10).mean(), rel=1e-6)}


# ---- bad input ------------------------------------------------------------------------------------------------------


def test_too_few_real_images(world: tuple[ImageSet, Classifier, Path], tmp_path: Path):
    model = made_model(tmp_path / "model", made_run())
    for key, at_most in (("n_neighbour_images", N_TRAIN), ("kernel_subset_size", N_TRAIN)):
        config = dataclasses.replace(CONFIG, n_images=40, **{key: 31})
        message = f"split 'train' has 30 images, params, score.{key} asks for 31 .* lower {key} to at most {at_most}"
        with pytest.raises(InputError, match=message):
            scoring.score_run(task_in(world, tmp_path / key, config), model)
    config = dataclasses.replace(CONFIG, n_neighbour_images=16)
    with pytest.raises(InputError, match=r"split 'test' has 15 images, params, score\.n_neighbour_images asks for 16"):
        scoring.score_real(task_in(world, tmp_path, config))
    config = dataclasses.replace(CONFIG, n_images=40, n_splits=31)
    with pytest.raises(InputError, match="params, score: n_splits is 31, more than the 30 images that are scored"):
        scoring.score_real(task_in(world, tmp_path, config))


def test_images_of_another_size(world: tuple[ImageSet, Classifier, Path], tmp_path: Path):
    model = made_model(tmp_path / "model", made_run(name="minibatch_mnist"))
    with pytest.raises(InputError, match="model: images of 28 x 28 x 1, the classifier that scores them was trained"):
        scoring.score_run(task_in(world, tmp_path / "a"), model)
    small = dataclasses.replace(world[0], images=world[0].images[:, ::2, ::2])
    with pytest.raises(InputError, match="set: images of 16 x 16 x 3, the classifier"):
        scoring.score_real(task_in(world, tmp_path / "b", image_set=small))


def test_models_that_have_no_generator(world: tuple[ImageSet, Classifier, Path], tmp_path: Path):
    task = task_in(world, tmp_path / "scratch")
    with pytest.raises(InputError, match=r"no such model/run\.json: missing; run the stage"):
        scoring.score_run(task, tmp_path / "no such model")
    with pytest.raises(InputError, match=r"classifier: its run.json is not that of a run of `semisup.runs`"):
        scoring.score_run(task, world[2] / "classifier")
    run = made_run()
    model = made_model(tmp_path / "model", run)
    write_model(model, {"seed4/split0/discriminator/x": torch.zeros(1)}, read_run(model), {})
    with pytest.raises(InputError, match=r"no generator \('seed4/split0/generator'\)"):
        scoring.score_run(task, model)
    made_model(model, made_run(splits=[0, 3]))
    with pytest.raises(InputError, match=r"a run of 2 labelled subsets \(0, 3\)"):
        scoring.score_run(task, model)


def test_another_run_wrote_the_tensors(world: tuple[ImageSet, Classifier, Path], tmp_path: Path):
    run = made_run()
    model = made_model(tmp_path / "model", run)
    record = read_run(model)
    record["params"]["architecture"]["generator_width"] = 6
    tensors = {"seed4/split0/generator/0.0.weight": torch.zeros(1)}
    write_model(model, tensors, record, {})
    with pytest.raises(InputError, match="'seed4/split0/generator' is not this network"):
        scoring.read_generator(model, Run(**vars(run)), 4)


def test_no_random_number_comes_from_elsewhere(world: tuple[ImageSet, Classifier, Path], tmp_path: Path):
    """The global generators do not enter; two passes give the same table."""
    model = made_model(tmp_path / "model", made_run(reference_batch=3))
    tables = []
    for number in range(2):
        torch.manual_seed(number)
        tables.append(scoring.score_run(task_in(world, tmp_path / f"{number}"), model).table)
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    assert improved.image_shape(made_run().architecture) == (3, 32, 32)
