"""The turn vector: its exemplars, what is added to which face, and the yaw that is seen."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from ruamel.yaml import YAML

from pipeline.core import compute, params
from pipeline.core.compute import Compute
from pipeline.core.errors import InputError
from pipeline.core.seeding import torch_stream
from pipeline.core.store import write_set
from pipeline.internals.annotations import Exemplars, Turn, generator_sha256
from pipeline.internals.face_attributes import Seen
from pipeline.internals.frozen import Reference, frozen_generator
from pipeline.internals.turn import COLUMNS, OTHERS, TurnVector, chosen_exemplars, measure, turn, turn_vector, turned
from pipeline.models import store
from pipeline.models.build import ColourArchitecture, build_generator
from pipeline.models.dcgan import PAPER
from pipeline.models.layers import initialise
from stages import turn as stage

CPU = Compute(device="cpu", threads=1, precision="fp32")
REFERENCE = Reference(seed=5, n_images=4)
CONFIG = TurnVector(seed=2, n_exemplars=4, extreme_share=0.05, n_coefficients=11, n_judged=8, n_draws=2)
ARCHITECTURE = ColourArchitecture(name="dcgan_64", z="uniform", z_dim=3, filters=1, variant=PAPER)
N_DECK = 200
JUDGES_YAW = 1000.0  # so that it is never taken for the chooser


class LinearWorld:
    """A generator whose picture is z: channel k has the level 127.5 + 40 z_k all over."""

    architecture = ARCHITECTURE

    def draw_z(self, n: int, seed: int, stream: str, index: int = 0) -> torch.Tensor:
        return torch.rand(n, 3, generator=torch_stream(seed, stream, index)) * 2 - 1

    def deck(self, n: int) -> torch.Tensor:
        return self.draw_z(n, REFERENCE.seed, "deck")

    def images(self, z: torch.Tensor) -> np.ndarray:
        levels = (127.5 + 40 * z).round().clamp(0, 255).to(torch.uint8).numpy()
        return np.broadcast_to(levels[:, None, None], (len(z), 64, 64, 3)).copy()


class Sees:
    """Networks that see yaw in the first channel; the judge sees 1,000 degrees more, and the attributes besides."""

    def chooser(self, images: np.ndarray) -> Seen:
        return Seen(probability=np.zeros((len(images), 3)), yaw=images[:, 0, 0, 0] - 127.5)

    def judge(self, images: np.ndarray) -> Seen:
        level = images[:, 0, 0, 0] / 255
        return Seen(probability=np.stack([level, level / 2, level / 3], axis=1), yaw=255 * level + JUDGES_YAW - 127.5)


def whole(attributes: Sees | None, annotated: Exemplars | None, config: TurnVector = CONFIG):
    return turn(LinearWorld(), config, n_deck=N_DECK, attributes=attributes, annotated=annotated)  # pyright: ignore[reportArgumentType]


def made_exemplars(of: Turn | None) -> Exemplars:
    return Exemplars(concepts={"x": (1, 2, 3)}, problems=(), turn=of, n_images=N_DECK, annotator="a1")


def test_exemplars_are_among_those_turned_furthest():
    yaw = np.arange(200.0)[::-1] - 100
    drawn = [chosen_exemplars(yaw, dataclasses.replace(CONFIG, seed=seed), 0) for seed in range(20)]
    for exemplars in drawn:
        assert len({*exemplars.left}) == len({*exemplars.right}) == 4
        assert {*exemplars.left} <= {*range(190, 200)}
        assert {*exemplars.right} <= {*range(10)}
    assert {index for exemplars in drawn for index in exemplars.right} == {*range(10)}, "any of them, by seed"
    assert chosen_exemplars(yaw, CONFIG, 0) == chosen_exemplars(yaw, CONFIG, 0)
    assert chosen_exemplars(yaw, CONFIG, 0) != chosen_exemplars(yaw, CONFIG, 1)


def test_no_face_looks_both_ways():
    config = dataclasses.replace(CONFIG, extreme_share=0.5, n_exemplars=3)
    for draw in range(20):
        exemplars = chosen_exemplars(np.arange(7.0), config, draw)
        assert not {*exemplars.left} & {*exemplars.right}


def test_too_few_faces_to_draw_exemplars_from():
    match = r"internals\.turn: a share of 0\.01 \(extreme_share\) of the deck's 200 faces is 2, expected at least 4"
    with pytest.raises(InputError, match=match):
        chosen_exemplars(np.zeros(200), dataclasses.replace(CONFIG, extreme_share=0.01), 0)


def test_the_vector_is_half_of_right_minus_left():
    z = torch.tensor([[0.0, 0], [2, 0], [0, 4], [1, 1]])
    assert turn_vector(z, Turn(left=(0, 1), right=(2, 3))).tolist() == [(0.5 - 1) / 2, (2.5 - 0) / 2]


def test_coefficients_times_the_vector_are_added():
    world, z, vector = LinearWorld(), torch.tensor([[0.0, 0.5, -0.5], [0.2, 0, 0]]), torch.tensor([1.0, 0, -2])
    images = turned(world, z, vector, np.array([-1.0, 0, 0.5]))  # pyright: ignore[reportArgumentType]
    assert images.shape == (2, 3, 64, 64, 3)
    for i, zi in enumerate(z):
        for j, coefficient in enumerate((-1.0, 0, 0.5)):
            np.testing.assert_array_equal(images[i, j], world.images((zi + coefficient * vector)[None])[0])


def test_yaw_of_every_sample_and_coefficient():
    levels = np.arange(6, dtype=np.uint8).reshape(2, 3) * 10
    images = np.broadcast_to(levels[..., None, None, None], (2, 3, 64, 64, 3))
    table = measure(images, np.array([-1.0, 0, 1]), Sees())  # pyright: ignore[reportArgumentType]
    assert table["sample"].tolist() == [0, 0, 0, 1, 1, 1]
    assert table["coefficient"].tolist() == [-1, 0, 1] * 2
    assert table["yaw"].tolist() == pytest.approx([level + JUDGES_YAW - 127.5 for level in range(0, 60, 10)])
    for number, name in enumerate(OTHERS):
        assert table[name].tolist() == pytest.approx([level / 255 / (number + 1) for level in range(0, 60, 10)])


def test_in_a_linear_world_faces_turn():
    pictures, table = whole(Sees(), None)
    assert pictures["images"].shape == (5, 11, 64, 64, 3)
    np.testing.assert_allclose(pictures["coefficients"], np.arange(-5, 6) / 5)
    assert len(table) == 2 * 8 * 11
    assert table["draw"].tolist() == [0] * 88 + [1] * 88
    seen = pictures["images"][:, :, 0, 0, 0].ravel() + JUDGES_YAW - 127.5
    np.testing.assert_allclose(table["yaw"][:55], seen)
    for _, mine in table.groupby(["draw", "sample"]):
        slope = np.polyfit(mine["coefficient"], mine["yaw"], 1)[0]
        assert 34 < slope < 42, "half of right minus left: about one in the first coordinate"
    faces = LinearWorld().draw_z(8, 2, "turned faces")
    np.testing.assert_array_equal(pictures["images"][:, 5], LinearWorld().images(faces[:5]))
    for draw in (0, 1):  # each draw turns faces of its own
        faces = LinearWorld().images(LinearWorld().draw_z(8, 2, "turned faces", draw))[:, 0, 0, 0]
        straight = table[(table["draw"] == draw) & (table["coefficient"] == 0)]["yaw"]
        np.testing.assert_allclose(straight, faces + JUDGES_YAW - 127.5)


def test_five_are_shown_even_if_fewer_are_judged():
    pictures, table = whole(Sees(), None, dataclasses.replace(CONFIG, n_judged=2))
    assert len(pictures["images"]) == 5
    assert table["sample"].unique().tolist() == [0, 1]


def test_annotated_exemplars_go_first_and_need_no_networks():
    named = made_exemplars(Turn(left=(0, 1, 2, 3), right=(4, 5, 6, 7)))
    pictures, table = whole(None, named)
    assert len(table) == 0
    z = LinearWorld().deck(N_DECK)
    faces = LinearWorld().draw_z(8, 2, "turned faces")[:5]
    expected = LinearWorld().images(faces + (z[4:8].mean(dim=0) - z[:4].mean(dim=0)) / 2)
    np.testing.assert_array_equal(pictures["images"][:, -1], expected)
    both, measured = whole(Sees(), named)
    np.testing.assert_array_equal(both["images"], pictures["images"])
    assert len(measured) == 88


@pytest.mark.parametrize("annotated", [None, made_exemplars(None)], ids=["nothing", "concepts only"])
def test_without_exemplars_there_is_nothing(annotated: Exemplars | None):
    pictures, table = whole(None, annotated)
    assert (pictures["images"].shape, pictures["coefficients"].shape) == ((0, 11, 64, 64, 3), (0,))
    assert table.dtypes.astype(str).to_dict() == COLUMNS
    assert len(table) == 0


def test_the_centre_is_the_face_itself(tmp_path: Path):
    sections = {"internals": {"turn": dataclasses.asdict(CONFIG) | {"n_coefficients": 10}}}
    YAML().dump(sections, tmp_path / "params.yaml")
    with pytest.raises(InputError, match=r"internals\.turn: .*n_coefficients must be odd.*found 10"):
        params.load(tmp_path / "params.yaml", TurnVector, own="internals.turn")


def test_the_stage_with_annotated_exemplars(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(compute, "set_up", lambda _: None)  # it would change this very process
    index = pd.DataFrame({"key": ["a"], "split": ["train"], "label": [-1], "source": ["made"]})
    write_set(tmp_path / "set", np.zeros((1, 64, 64, 3), np.uint8), index, pd.DataFrame({"key": [], "reason": []}))
    network = build_generator(ARCHITECTURE)
    initialise(network, 0.3, torch_stream(0, "weights"))
    run = {"params": {"architecture": dataclasses.asdict(ARCHITECTURE), "seeds": [4]}}
    store.write_model(tmp_path / "model", store.named_tensors("seed4/generator", network), run, {})
    store.write_model(tmp_path / "attributes", {}, {"params": {"filters": 2, "seed": 0}, "trained": False}, {})
    on_z = {"seed": 1, "n_deck": 12, "n_exemplars": [1], "n_problems": 1, "noise": 0.25, "confidence": 0.8}
    sections = {
        "internals": {
            "arithmetic": on_z,
            "turn": dataclasses.asdict(CONFIG),
            "reference": dataclasses.asdict(REFERENCE),
        },
        "compute": dataclasses.asdict(CPU),
    }
    YAML().dump(sections, tmp_path / "params.yaml")
    generator = frozen_generator(tmp_path / "model", REFERENCE, CPU)
    annotated = {"network": generator_sha256(generator), "annotator": "a1", "n_images": 12, "concepts": {}}
    annotated |= {"problems": [], "turn": {"left": [0, 1, 2, 3], "right": [8, 9, 10, 11]}}
    (tmp_path / "exemplars.json").write_text(json.dumps(annotated))
    given = [tmp_path / name for name in ("params.yaml", "set", "model", "attributes", "exemplars.json")]
    for name in ("a", "b"):
        stage.main(*given, tmp_path / f"{name}.npz", tmp_path / f"{name}.parquet")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert len(pd.read_parquet(tmp_path / "a.parquet")) == 0
    z, faces = generator.deck(12), generator.draw_z(8, 2, "turned faces")
    vector = (z[8:].mean(dim=0) - z[:4].mean(dim=0)) / 2
    with np.load(tmp_path / "a.npz") as content:
        np.testing.assert_array_equal(content["images"][:, 5], generator.images(faces[:5]))
        np.testing.assert_array_equal(content["images"][:, 0], generator.images(faces[:5] - vector))
