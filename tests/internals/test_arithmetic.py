"""Vector arithmetic: problems and exemplars, the arithmetic itself, its numbers in a world where it must work."""

import dataclasses
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from ruamel.yaml import YAML

from pipeline.core import compute, params
from pipeline.core.compute import Compute
from pipeline.core.errors import InputError
from pipeline.core.seeding import numpy_stream, torch_stream
from pipeline.core.store import write_set
from pipeline.evaluation.intervals import wilson
from pipeline.internals.annotations import Exemplars, generator_sha256
from pipeline.internals.arithmetic import (
    CENTRE,
    KINDS,
    Arithmetic,
    Kind,
    arithmetic,
    chosen_problems,
    combined,
    draw_problems,
    means,
    measure,
    usable_kinds,
)
from pipeline.internals.face_attributes import Seen
from pipeline.internals.frozen import Reference, frozen_generator
from pipeline.models import store
from pipeline.models.build import ColourArchitecture, build_generator
from pipeline.models.dcgan import PAPER
from pipeline.models.layers import initialise
from stages import arithmetic as stage

CPU = Compute(device="cpu", threads=1, precision="fp32")
REFERENCE = Reference(seed=5, n_images=4)
CONFIG = Arithmetic(seed=1, n_deck=300, n_exemplars=[1, 3], n_problems=50, noise=0.25, confidence=0.8)
ARCHITECTURE = ColourArchitecture(name="dcgan_64", z="uniform", z_dim=6, filters=1, variant=PAPER)


class LinearWorld:
    """A generator whose picture is z: channel k has the level 127.5 + 60 z_k all over, and remembers what it drew."""

    architecture = ARCHITECTURE

    def __init__(self) -> None:
        self.drawn: list[torch.Tensor] = []

    def draw_z(self, n: int, seed: int, stream: str, index: int = 0) -> torch.Tensor:
        return torch.rand(n, 3, generator=torch_stream(seed, stream, index)) * 2 - 1

    def deck(self, n: int) -> torch.Tensor:
        return self.draw_z(n, REFERENCE.seed, "deck")

    def images(self, z: torch.Tensor) -> np.ndarray:
        self.drawn.append(z)
        levels = (127.5 + 60 * z).round().clamp(0, 255).to(torch.uint8).numpy()
        return np.broadcast_to(levels[:, None, None], (len(z), 64, 64, 3)).copy()


class Sees:
    """Networks that see attribute k in channel k, the chooser less sharply than the judge."""

    def __init__(self, rare: int | None = None) -> None:
        self.rare = rare  # an attribute that the chooser never finds

    def _seen(self, images: np.ndarray, sharpness: float) -> Seen:
        levels = images[:, 0, 0].astype(np.float64)
        return Seen(probability=1 / (1 + np.exp(-sharpness * (levels - 127.5))), yaw=levels[:, 0])

    def chooser(self, images: np.ndarray) -> Seen:
        seen = self._seen(images, 0.05)
        if self.rare is not None:
            seen.probability[:, self.rare] *= 0.1
        return seen

    def judge(self, images: np.ndarray) -> Seen:
        return self._seen(images, 1.0)


def made_deck(n: int = 300) -> tuple[LinearWorld, torch.Tensor, np.ndarray]:
    world = LinearWorld()
    z = world.deck(n)
    return world, z, world.images(z)


# ---- problems -------------------------------------------------------------------------------------------------------


def test_all_kinds_of_problems():
    assert len(KINDS) == len(set(KINDS)) == 3 * 2 * 2 * 2
    assert Counter((kind.a, kind.b) for kind in KINDS) == {(a, b): 4 for a in range(3) for b in range(3) if a != b}


def test_concepts_by_hand():
    kind = Kind(a=1, b=2, a_on=True, b_on=False)
    assert kind.names() == ["glasses, light hair", "no glasses, light hair", "no glasses, no light hair"]
    seen = Seen(probability=np.array([[0, 0.9, 0.9], [0, 0.1, 0.95], [0, 0.1, 0.2], [1, 0.7, 0.1]]), yaw=np.zeros(4))
    assert [found.tolist() for found in kind.exemplars(seen, 0.8)] == [[0], [1], [2]]
    assert [found.tolist() for found in kind.exemplars(seen, 0.9)] == [[0], [1], []]
    assert kind.found(seen).tolist() == [False, False, False, True]


def test_every_kind_gets_as_many_problems_and_confident_exemplars_of_its_own():
    _, _, images = made_deck()
    seen = Sees().chooser(images)
    problems = draw_problems(seen, CONFIG)
    counts = Counter(problem.kind for problem in problems)
    assert len(problems) == 50
    assert sorted(counts.values()) == [2] * 22 + [3] * 2
    for problem in problems:
        k = problem.kind
        assert problem.exemplars.shape == (3, 3)
        for indices, (a_on, b_on) in zip(problem.exemplars, k.concepts(), strict=True):
            assert len({*indices}) == 3
            for index in indices:
                p = seen.probability[index]
                assert (p[k.a] if a_on else 1 - p[k.a]) >= 0.8
                assert (p[k.b] if b_on else 1 - p[k.b]) >= 0.8
    again, other = (draw_problems(seen, dataclasses.replace(CONFIG, seed=seed)) for seed in (1, 2))
    every = [np.stack([problem.exemplars for problem in drawn]) for drawn in (problems, again, other)]
    np.testing.assert_array_equal(every[0], every[1])
    assert not np.array_equal(every[0], every[2])


def test_the_same_problems_whatever_the_means():
    seen = Sees().chooser(made_deck()[2])
    few, many = (draw_problems(seen, dataclasses.replace(CONFIG, n_exemplars=[n])) for n in (2, 5))
    for a, b in zip(few, many, strict=True):
        assert a.kind == b.kind
        np.testing.assert_array_equal(a.exemplars, b.exemplars[:, :2])


def test_kinds_with_too_few_exemplars_are_left_out():
    seen = Sees(rare=1).chooser(made_deck()[2])
    assert {kind for kind in KINDS if 1 not in (kind.a, kind.b)} == {*usable_kinds(seen, 0.8, 3)}
    assert {problem.kind for problem in draw_problems(seen, CONFIG)} == {*usable_kinds(seen, 0.8, 3)}
    smallest = min(min(map(len, kind.exemplars(seen, 0.8))) for kind in usable_kinds(seen, 0.8, 3))
    assert len(usable_kinds(seen, 0.8, smallest)) == 8
    assert len(usable_kinds(seen, 0.8, smallest + 1)) < 8
    assert draw_problems(seen, dataclasses.replace(CONFIG, n_exemplars=[1, 300])) == []


# ---- arithmetic -----------------------------------------------------------------------------------------------------


def test_arithmetic_against_a_slow_loop():
    rng = numpy_stream(0, "arithmetic")
    vectors, exemplars = rng.normal(size=(20, 4, 2)), rng.integers(20, size=(5, 3, 2))
    got, got_means = (f(torch.from_numpy(vectors), exemplars).numpy() for f in (combined, means))
    for p in range(5):
        a, b, c = (sum(vectors[i] for i in exemplars[p, concept]) / 2 for concept in range(3))
        np.testing.assert_allclose(got[p], a - b + c)
        np.testing.assert_allclose(got_means[p], [a, b, c])


def test_nothing_is_clipped_and_bytes_are_averaged_in_float64():
    exemplars = np.array([[[0], [1], [0]]])
    assert combined(torch.tensor([[1.0, -1], [-1, 1]]), exemplars).tolist() == [[3, -3]]
    levels = numpy_stream(0, "levels").integers(0, 256, (20, 4), dtype=np.uint8)
    drawn = numpy_stream(0, "drawn").integers(20, size=(5, 3, 7))
    got = means(torch.from_numpy(levels), drawn)
    assert got.dtype == torch.float64
    np.testing.assert_array_equal(got.numpy(), levels.astype(np.float64)[drawn].sum(axis=2) / 7)
    assert means(torch.zeros(20, 2), drawn).dtype == torch.float32, "z stay as the generator takes them"


def right_by_hand(z: torch.Tensor, config: Arithmetic, n: int) -> list[bool]:
    """In the linear world an attribute is on where its coordinate is above zero."""
    right = []
    for problem in draw_problems(Sees().chooser(LinearWorld().images(z)), config):
        a, b, c = (z[indices[:n]].mean(dim=0) for indices in problem.exemplars.tolist())
        levels = (127.5 + 60 * (a - b + c)).round().clamp(0, 255) > 127.5
        right.append(bool(levels[problem.kind.a] == problem.kind.a_on and levels[problem.kind.b] == problem.kind.b_on))
    return right


def test_the_share_of_right_results_in_a_linear_world():
    world, z, images = made_deck()
    config = dataclasses.replace(CONFIG, n_problems=150, n_exemplars=[1, 3], confidence=0.7)
    table = measure(world, z, images, Sees(), config).set_index(["space", "n_exemplars"])  # pyright: ignore[reportArgumentType]
    assert table.index.tolist() == [
        *((space, n) for space in ("z", "pixels", "start") for n in (1, 3)),
        ("chance", 0),
    ]
    assert (table["n_problems"] == 150).all()
    right = {n: right_by_hand(z, config, n) for n in (1, 3)}
    for n in (1, 3):
        row = table.loc[("z", n)]
        assert row["n_right"] == sum(right[n])
        assert row["share"] == sum(right[n]) / 150
        assert (row["low"], row["high"]) == wilson(sum(right[n]), 150)
    gained = sum(b and not a for a, b in zip(right[1], right[3], strict=True))
    lost = sum(a and not b for a, b in zip(right[1], right[3], strict=True))
    assert table.loc[("z", 3), ["n_gained", "n_lost"]].tolist() == [gained, lost]
    assert gained > 0
    assert table.loc[("z", 1), ["n_gained", "n_lost"]].tolist() == [0, 0]
    assert 0.5 < table.loc[("z", 1), "share"] < table.loc[("z", 3), "share"], "averaging helps"
    # pictures are linear in z, but for rounding and clipping
    assert table.loc[("pixels", 3), "share"] == pytest.approx(table.loc[("z", 3), "share"], abs=0.04)
    assert table.loc[("start", 3), "n_right"] == 0, "C has not got a"
    problems = draw_problems(Sees().chooser(images), config)
    for n in (1, 3):
        start = torch.stack([z[problem.exemplars[2, :n]].mean(dim=0) for problem in problems])
        assert any(drawn.shape == start.shape and torch.allclose(drawn, start) for drawn in world.drawn)
    assert 0.1 < table.loc[("chance", 0), "share"] < 0.4, "one of four"
    assert (table["n_kinds"] == 24).all()
    assert (table["n_kinds_left_out"] == 0).all()


def test_the_judge_and_not_the_chooser_looks_at_results():
    class Blind(Sees):
        def judge(self, images: np.ndarray) -> Seen:
            return Seen(probability=np.zeros((len(images), 3)), yaw=np.zeros(len(images)))

    world, z, images = made_deck()
    table = measure(world, z, images, Blind(), dataclasses.replace(CONFIG, n_problems=48))  # pyright: ignore[reportArgumentType]
    assert (table["n_right"] == 48 / 4).all(), "only where both are to be off"


def test_left_out_kinds_are_counted_and_nothing_is_measured_if_none_is_left():
    world, z, images = made_deck()
    table = measure(world, z, images, Sees(rare=1), CONFIG)  # pyright: ignore[reportArgumentType]
    assert (table["n_kinds_left_out"] == 16).all()
    none = measure(world, z, images, Sees(), dataclasses.replace(CONFIG, n_exemplars=[300]))  # pyright: ignore[reportArgumentType]
    assert len(none) == 0
    assert none.dtypes.to_dict() == table.dtypes.to_dict()


# ---- pictures -------------------------------------------------------------------------------------------------------


def whole(world: LinearWorld, attributes: Sees | None, annotated: Exemplars | None, config: Arithmetic = CONFIG):
    return arithmetic(world, config, attributes=attributes, annotated=annotated)  # pyright: ignore[reportArgumentType]


def test_pictures_of_a_smile_and_of_glasses_on_other_hair():
    world, z, images = made_deck()
    pictures, table = whole(world, Sees(), None)
    assert len(table) == 7
    assert pictures["concepts"].tolist() == [
        ["smile, no light hair", "no smile, no light hair", "no smile, light hair"],
        ["glasses, no light hair", "no glasses, no light hair", "no glasses, light hair"],
    ]
    assert {name: (array.dtype.kind, array.shape) for name, array in pictures.items()} == {
        "concepts": ("U", (2, 3)),
        "exemplars": ("u", (2, 3, 3, 64, 64, 3)),
        "means": ("u", (2, 3, 64, 64, 3)),
        "results": ("u", (2, 9, 64, 64, 3)),
        "pixel_means": ("u", (2, 3, 64, 64, 3)),
        "pixel_results": ("u", (2, 64, 64, 3)),
    }
    problems = chosen_problems(Sees().chooser(images), CONFIG)
    for number, problem in enumerate(problems):
        a, b, c = (z[indices].mean(dim=0) for indices in problem.exemplars.tolist())
        np.testing.assert_array_equal(pictures["exemplars"][number], images[problem.exemplars])
        np.testing.assert_array_equal(pictures["means"][number], world.images(torch.stack([a, b, c])))
        np.testing.assert_array_equal(pictures["results"][number, CENTRE], world.images((a - b + c)[None])[0])
        levels = images[problem.exemplars].astype(np.float64).mean(axis=1)
        np.testing.assert_array_equal(pictures["pixel_means"][number], levels.round().astype(np.uint8))
        expected = (levels[0] - levels[1] + levels[2]).clip(0, 255).round().astype(np.uint8)
        np.testing.assert_array_equal(pictures["pixel_results"][number], expected)


def test_the_eight_others_are_within_the_noise():
    world = LinearWorld()
    whole(world, None, made_exemplars())
    around = world.drawn[-1].reshape(1, 9, 3)
    away = (around - around[:, CENTRE : CENTRE + 1]).abs()
    others = away[:, [i for i in range(9) if i != CENTRE]]
    assert 0.15 < others.max() <= 0.25
    assert (others.amax(dim=2) > 0).all(), "none is the result itself"
    assert len({*others.flatten().tolist()}) == 8 * 3


def test_a_problem_that_the_deck_has_no_faces_for_is_not_shown():
    pictures, table = whole(LinearWorld(), Sees(rare=1), None)
    assert pictures["concepts"][:, 0].tolist() == ["smile, no light hair"]
    assert len(table) == 7
    seen = Sees().chooser(made_deck()[2])
    seen.probability[:, 2] = np.where(seen.probability[:, 2] < 0.8, 0.5, seen.probability[:, 2])  # no dark hair
    assert chosen_problems(seen, CONFIG) == []
    seen.probability[:, :2] = 0.9
    seen.probability[:30, 0] = 0.1
    seen.probability[:, 2] = np.arange(300) % 2
    assert [problem.names[0] for problem in chosen_problems(seen, CONFIG)] == ["smile, no light hair"]


def made_exemplars() -> Exemplars:
    concepts = {"smiling woman": (3, 17, 98, 4), "neutral woman": (5, 6, 7), "neutral man": (1, 2, 9)}
    problems = (("smiling woman", "neutral woman", "neutral man"),)
    return Exemplars(concepts=concepts, problems=problems, turn=None, n_images=300, annotator="a1")


def test_annotated_exemplars_are_shown_and_without_networks_nothing_is_measured():
    _, _, images = made_deck()
    pictures, table = whole(LinearWorld(), None, made_exemplars())
    assert pictures["concepts"].tolist() == [["smiling woman", "neutral woman", "neutral man"]]
    np.testing.assert_array_equal(pictures["exemplars"][0], images[[[3, 17, 98], [5, 6, 7], [1, 2, 9]]])
    assert len(table) == 0
    both, measured = whole(LinearWorld(), Sees(), made_exemplars())
    np.testing.assert_array_equal(both["results"], pictures["results"])
    assert len(measured) == 7


def test_without_networks_and_annotations_there_is_nothing():
    pictures, table = whole(LinearWorld(), None, None)
    assert {name: array.shape for name, array in pictures.items()} == {
        "concepts": (0, 3),
        "exemplars": (0, 3, 3, 64, 64, 3),
        "means": (0, 3, 64, 64, 3),
        "results": (0, 9, 64, 64, 3),
        "pixel_means": (0, 3, 64, 64, 3),
        "pixel_results": (0, 64, 64, 3),
    }
    assert pictures["means"].dtype == pictures["results"].dtype == pictures["pixel_results"].dtype == np.uint8
    assert len(table) == 0


# ---- the stage ------------------------------------------------------------------------------------------------------


def write_generator(out: Path, name: str = "dcgan_64") -> None:
    architecture = dataclasses.replace(ARCHITECTURE, name=name)
    network = build_generator(architecture)
    initialise(network, 0.3, torch_stream(0, "weights"))
    tensors = store.named_tensors("seed4/generator", network)
    run = {"params": {"architecture": dataclasses.asdict(architecture), "seeds": [4]}}
    store.write_model(out, tensors, run, {})


@pytest.fixture
def world(tmp_path: Path, monkeypatch) -> Path:
    """A set and a generator, no networks that see, nothing annotated."""
    monkeypatch.setattr(compute, "set_up", lambda _: None)  # it would change this very process
    index = pd.DataFrame({"key": ["a"], "split": ["train"], "label": [-1], "source": ["made"]})
    write_set(tmp_path / "set", np.zeros((1, 64, 64, 3), np.uint8), index, pd.DataFrame({"key": [], "reason": []}))
    write_generator(tmp_path / "model")
    store.write_model(tmp_path / "attributes", {}, {"params": {"filters": 2, "seed": 0}, "trained": False}, {})
    config = dataclasses.asdict(dataclasses.replace(CONFIG, n_deck=12))
    sections = {
        "internals": {"arithmetic": config, "reference": dataclasses.asdict(REFERENCE)},
        "compute": dataclasses.asdict(CPU),
    }
    YAML().dump(sections, tmp_path / "params.yaml")
    (tmp_path / "exemplars.json").write_text("{}")
    return tmp_path


def run_stage(world: Path, out: str, model: str = "model") -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    given = (world / "set", world / model, world / "attributes", world / "exemplars.json")
    stage.main(world / "params.yaml", *given, world / f"{out}.npz", world / f"{out}.parquet")
    with np.load(world / f"{out}.npz") as content:
        return dict(content), pd.read_parquet(world / f"{out}.parquet")


def test_the_stage_without_anything_to_show(world: Path):
    pictures, table = run_stage(world, "a")
    assert len(pictures["results"]) == len(table) == 0


def test_the_stage_with_annotated_exemplars_repeats_its_bytes(world: Path):
    generator = frozen_generator(world / "model", REFERENCE, CPU)
    annotated = {"network": generator_sha256(generator), "annotator": "a1", "n_images": 12, "turn": None}
    annotated |= {"concepts": {"x": [0, 1, 2], "y": [3, 4, 5], "z": [9, 10, 11]}, "problems": [["x", "y", "z"]]}
    (world / "exemplars.json").write_text(json.dumps(annotated))
    pictures, table = run_stage(world, "a")
    run_stage(world, "b")
    for suffix in ("npz", "parquet"):
        assert (world / f"a.{suffix}").read_bytes() == (world / f"b.{suffix}").read_bytes()
    assert len(table) == 0
    z = generator.deck(12)
    np.testing.assert_array_equal(pictures["exemplars"][0, 0], generator.images(z[:3]))
    y = z[:3].mean(dim=0) - z[3:6].mean(dim=0) + z[9:].mean(dim=0)
    np.testing.assert_array_equal(pictures["results"][0, CENTRE], generator.images(y[None])[0])
    assert np.ptp(pictures["results"].astype(int)) > 50


def test_bad_input_to_the_stage(world: Path):
    write_generator(world / "small", "dcgan_32")
    with pytest.raises(InputError, match=r"images of 64 x 64 x 3, but .*small has a dcgan_32 for 32 x 32 x 3"):
        run_stage(world, "a", model="small")
    (world / "exemplars.json").write_text("{")
    with pytest.raises(InputError, match=r"exemplars\.json: not valid JSON"):
        run_stage(world, "a")
    assert not (world / "a.npz").exists()


def test_params_are_checked(world: Path):
    for key, value, match in (
        ("n_exemplars", [], "n_exemplars"),
        ("confidence", 1.0, "confidence"),
        ("noise", 0, "noise"),
    ):
        sections = {"internals": {"arithmetic": dataclasses.asdict(CONFIG) | {key: value}}}
        YAML().dump(sections, world / "bad.yaml")
        with pytest.raises(InputError, match=rf"internals\.arithmetic\.{match}"):
            params.load(world / "bad.yaml", Arithmetic, own="internals.arithmetic")
