"""Face attributes: what is learnt and from what, how pictures are spoilt, and the numbers beside the networks."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from ruamel.yaml import YAML

from pipeline.core import compute
from pipeline.core.compute import Compute
from pipeline.core.errors import InputError
from pipeline.core.seeding import numpy_stream, torch_stream
from pipeline.core.store import ImageSet, write_set
from pipeline.datasets.embedded import heads
from pipeline.internals import face_attributes as module
from pipeline.internals.face_attributes import (
    GREY,
    YAW_SCALE,
    Attributes,
    FaceAttributes,
    Seen,
    accuracy,
    calibration,
    has_attributes,
    known_rows,
    loss_of,
    read_attributes,
    spoilt,
    standardised,
    to_grey,
    train_attributes,
    truth_of,
    write_attributes,
)
from stages import face_attributes as stage

CPU = Compute(device="cpu", threads=1, precision="fp32")
CONFIG = FaceAttributes(seed=3, filters=2, steps=40, batch_size=16, learning_rate=0.01)


def made_set(n: int = 60, *, known: bool = True, side: int = 64) -> ImageSet:
    """Grey pictures on which a smile, glasses and light hair are bright bands, and yaw the place of a dark column."""
    rng = numpy_stream(0, "made faces")
    on = rng.random((n, 3)) < 0.5
    yaw = rng.uniform(-25, 25, n)
    images = rng.integers(100, 120, (n, side, side, 3), dtype=np.uint8)
    for i in range(n):
        for band, is_on in zip((50, 25, 3), on[i], strict=True):
            images[i, band : band + 8] = 220 if is_on else 100
        images[i, 34:48, round(side / 2 + yaw[i]) - 3 :][:, :6] = 0
    split = np.where(np.arange(n) % 3 == 0, "test", "train")
    index = pd.DataFrame({"key": [str(i) for i in range(n)], "split": split, "label": -1, "source": "made"})
    if known:
        index["smile"] = pd.array(on[:, 0], dtype="boolean")
        index["glasses"] = pd.array(on[:, 1], dtype="boolean")
        index["hair_colour"] = np.where(on[:, 2], "grey", "none")
        index["yaw"] = yaw
    return ImageSet(path=Path("made"), images=images, index=index)


# ---- truth ----------------------------------------------------------------------------------------------------------


def test_truth_by_hand():
    index = pd.DataFrame(
        {
            "smile": pd.array([True, False, True], dtype="boolean"),
            "glasses": pd.array([False, False, True], dtype="boolean"),
            "hair_colour": ["blond", "none", "red"],
            "yaw": [-3.5, 0.0, 12.0],
        }
    )
    image_set = ImageSet(path=Path("s"), images=np.zeros((3, 64, 64, 3), np.uint8), index=index)
    assert truth_of(image_set, np.array([2, 0])).tolist() == [[1, 1, 0, 12], [1, 0, 1, -3.5]]


def test_only_rows_of_the_split_whose_attributes_are_all_known():
    image_set = made_set(12)
    image_set.index.loc[[1, 3], "yaw"] = np.nan
    image_set.index.loc[4, "smile"] = pd.NA
    assert known_rows(image_set, "train").tolist() == [2, 5, 7, 8, 10, 11]
    assert known_rows(image_set, "test").tolist() == [0, 6, 9]
    image_set.index["glasses"] = pd.array([pd.NA] * 12, dtype="boolean")
    with pytest.raises(InputError, match=r"none of the 8 images of split 'train' has known attributes"):
        known_rows(image_set, "train")
    with pytest.raises(InputError, match=r"images of 32 x 32 x 3; .* 64 x 64: set detect_faces.size to 64"):
        known_rows(made_set(side=32), "train")


def test_a_set_without_one_of_the_columns_has_no_attributes():
    assert has_attributes(made_set(3))
    assert not has_attributes(made_set(3, known=False))
    image_set = made_set(3)
    del image_set.index["hair_colour"]
    assert not has_attributes(image_set)


# ---- pictures -------------------------------------------------------------------------------------------------------


def test_grey_is_the_weighted_sum_of_the_colours():
    images = numpy_stream(1, "images").integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    expected = (images * np.array(GREY)).sum(axis=3) / 255
    np.testing.assert_allclose(to_grey(images, torch.tensor(GREY)).squeeze(1).numpy(), expected, atol=1e-6)
    each = torch.tensor([[1.0, 0, 0], [0, 0, 1.0]])[:, None]
    got = to_grey(images, each).squeeze(1).numpy()
    np.testing.assert_allclose(got, np.stack([images[0, ..., 0], images[1, ..., 2]]) / 255, atol=1e-6)


def test_standardised_images_have_the_same_mean_and_spread():
    x = torch.rand(3, 1, 64, 64, generator=torch_stream(0, "x")) * torch.tensor([1.0, 0.5, 0.0]).view(3, 1, 1, 1)
    y = standardised(x)
    assert y.mean(dim=(1, 2, 3)).abs().max().item() == pytest.approx(0, abs=1e-5)
    assert y[:2].std(dim=(1, 2, 3)).tolist() == pytest.approx([0.29 / 0.34, 0.145 / 0.195], rel=0.02)
    assert y[2].abs().max().item() == pytest.approx(0, abs=1e-5), "a flat image stays finite"
    torch.testing.assert_close(standardised(x[:1] + 0.3), y[:1], atol=1e-5, rtol=0)


def test_moved_without_blur_is_a_shift_that_repeats_the_edge():
    x = torch.rand(80, 1, 9, 9, generator=torch_stream(0, "x"))
    moved = module._moved_and_blurred(x, torch.zeros(80, 1, 1, 1), torch_stream(0, "moves"))
    down, across = torch.randint(-3, 4, (2, 80, 1, 1), generator=torch_stream(0, "moves")).flatten(1).tolist()
    assert {*down} == {*across} == {-3, -2, -1, 0, 1, 2, 3}
    for i in range(80):
        rows = np.clip(np.arange(9) + down[i], 0, 8)
        columns = np.clip(np.arange(9) + across[i], 0, 8)
        np.testing.assert_allclose(moved[i, 0].numpy(), x[i, 0].numpy()[np.ix_(rows, columns)], atol=1e-6)


def test_blur_keeps_a_flat_image_and_spreads_a_point():
    flat, point = torch.full((1, 1, 21, 21), 0.4), torch.zeros(1, 1, 21, 21)
    point[0, 0, 10, 10] = 1
    for sigma in (0.9, 1.3):
        at = torch.full((1, 1, 1, 1), sigma)
        torch.testing.assert_close(module._moved_and_blurred(flat, at, torch_stream(0, "m")), flat)
        blurred = module._moved_and_blurred(point, at, torch_stream(0, "m"))[0, 0].double()
        y, x = torch.meshgrid(torch.arange(21.0), torch.arange(21.0), indexing="ij")
        centre = [(blurred * places).sum() for places in (y, x)]
        spread = [(blurred * (places - c) ** 2).sum().item() for places, c in zip((y, x), centre, strict=True)]
        assert blurred.sum().item() == pytest.approx(1, abs=1e-5)
        assert spread == pytest.approx([sigma**2] * 2, rel=0.05)


def test_spoilt_pictures_keep_their_truth_and_mirroring_turns_the_head():
    n = 200
    images = np.zeros((n, 64, 64, 3), np.uint8)
    images[:, :, :32] = 200  # the left half is bright
    truth = np.tile(np.array([[1, 0, 1, 20]], np.float32), (n, 1))
    x, y = spoilt(images, truth, torch_stream(0, "spoilt"))
    again, _ = spoilt(images, truth, torch_stream(0, "spoilt"))
    assert torch.equal(x, again)
    assert x.shape == (n, 1, 64, 64)
    assert 0 <= x.min() < x.max() <= 1
    assert (y[:, :3] == torch.tensor([1.0, 0, 1])).all()
    bright_left = x[..., :29].mean(dim=(1, 2, 3)) > x[..., 35:].mean(dim=(1, 2, 3))
    assert torch.equal(bright_left, y[:, 3] > 0)
    assert {*y[:, 3].tolist()} == {-20.0, 20.0}
    assert 0.35 < bright_left.float().mean() < 0.65
    assert (truth[:, 3] == 20).all(), "what was given is left alone"
    shown = torch.where(bright_left[:, None, None, None], x, x.flip(3))
    untouched = (shown[..., :29] - 200 / 255).abs().amax(dim=(1, 2, 3)) < 1e-4
    assert 0.1 < untouched.float().mean() < 0.3, "about one in five is only moved and mirrored"


# ---- training -------------------------------------------------------------------------------------------------------


def test_the_loss_by_hand():
    y, truth = torch.tensor([[0.0, 2, -1, 0.5]]), torch.tensor([[1.0, 1, 0, 25.0]])
    p = 1 / (1 + np.exp(-np.array([0.0, 2, 1])))
    expected = -np.log(p).mean() + 2 * (0.5 - 1) ** 2
    assert loss_of(y, truth).item() == pytest.approx(expected, rel=1e-6)


def test_the_scale_of_yaw_is_how_far_rendered_heads_turn():
    assert YAW_SCALE == heads.MAX_YAW


def test_a_set_without_test_faces_fails_before_the_training(monkeypatch):
    monkeypatch.setattr(module, "_trained", lambda *_: pytest.fail("trained first"))
    image_set = made_set()
    image_set.index.loc[image_set.index["split"] == "test", "yaw"] = np.nan
    with pytest.raises(InputError, match="none of the 20 images of split 'test' has known attributes"):
        train_attributes(image_set, CONFIG, CPU)


def test_weights_without_a_gradient_stay(monkeypatch):
    """Adam of no weight decay: what the loss does not depend on is as it was drawn."""
    monkeypatch.setattr(module, "loss_of", lambda y, truth: 0 * y.sum())
    layers = train_attributes(made_set(), dataclasses.replace(CONFIG, steps=2), CPU)[0].networks["judge"]
    drawn = module.network(CONFIG.filters)
    module._initialise(drawn, torch_stream(CONFIG.seed, "face attributes, judge: weights"))
    for got, expected in zip(layers.parameters(), drawn.parameters(), strict=True):
        assert torch.equal(got, expected)


@pytest.fixture(scope="module")
def trained() -> tuple[Attributes, pd.DataFrame]:
    torch.set_num_threads(1)
    return train_attributes(made_set(), CONFIG, CPU)


def test_both_networks_learn(trained):
    attributes, history = trained
    assert history["network"].tolist() == ["chooser"] * 2 + ["judge"] * 2
    assert history["step"].tolist() == [20, 40] * 2
    for _, mine in history.groupby("network"):
        assert 0 < mine["loss"].iloc[1] < 0.8 * mine["loss"].iloc[0]
    table = accuracy(attributes, made_set()).set_index("attribute")
    assert (table["n_images"] == 20).all()
    assert (table["accuracy"] > table["majority"])[["smile", "glasses", "light hair"]].all()
    assert table.loc["yaw", "correlation"] > 0.6
    assert np.isnan(table.loc["yaw", ["accuracy", "majority"]].astype(float)).all()
    assert np.isnan(table.loc["smile", ["correlation", "mean_absolute_error"]].astype(float)).all()


def test_chooser_and_judge_are_networks_of_their_own(trained):
    attributes, images = trained[0], made_set().images
    chooser, judge = attributes.chooser(images), attributes.judge(images)
    assert chooser.probability.shape == (60, 3)
    assert not np.allclose(chooser.probability, judge.probability, atol=1e-3)
    assert 0 <= chooser.probability.min() < chooser.probability.max() <= 1


def test_what_is_seen_in_an_image_does_not_depend_on_its_neighbours(trained):
    images = made_set().images
    together = trained[0].judge(images)
    for i in (0, 7):
        alone = trained[0].judge(images[i : i + 1])
        np.testing.assert_allclose(alone.probability[0], together.probability[i], atol=1e-5)
        np.testing.assert_allclose(alone.yaw[0], together.yaw[i], atol=1e-3)
    nothing = trained[0].judge(images[:0])
    assert (nothing.probability.shape, nothing.yaw.shape) == ((0, 3), (0,))
    with pytest.raises(InputError, match=r"images of 32 x 32 x 3, but face attributes are learnt from RGB faces of 64"):
        trained[0].judge(images[:, :32, :32])


def test_the_same_seed_gives_the_same_networks():
    config = dataclasses.replace(CONFIG, steps=3)
    image_set = made_set()
    first, again, other = (
        train_attributes(image_set, dataclasses.replace(config, seed=seed), CPU)[0].judge(image_set.images)
        for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first.yaw, again.yaw)
    assert not np.allclose(first.yaw, other.yaw)


def test_shown_with_confidence():
    seen = Seen(probability=np.array([[0.95, 0.2, 0.5], [0.4, 0.06, 0.9]]), yaw=np.zeros(2))
    assert seen.shows(0, on=True).tolist() == [True, False]
    assert seen.shows(0, on=False).tolist() == [False, True]
    assert seen.shows(1, on=False, confidence=0.9).tolist() == [False, True]
    assert seen.shows(2, on=True, confidence=0.9).tolist() == [False, True]


# ---- numbers --------------------------------------------------------------------------------------------------------


class Says:
    """Stands for both networks."""

    def __init__(self, probability: np.ndarray, yaw: np.ndarray) -> None:
        self.answer = Seen(probability=probability, yaw=yaw)
        self.looked_at: list[np.ndarray] = []

    def judge(self, images: np.ndarray) -> Seen:
        self.looked_at.append(images)
        return self.answer

    def seen_in_grey(self, role: str, batches: list[torch.Tensor]) -> Seen:
        return self.answer


def test_accuracy_by_hand():
    image_set = made_set(12)  # of split test: 0, 3, 6, 9
    image_set.index["smile"] = pd.array([True] * 9 + [False] * 3, dtype="boolean")
    image_set.index["glasses"] = pd.array([False] * 12, dtype="boolean")
    image_set.index["yaw"] = np.arange(12.0)
    says = Says(np.array([[0.9, 0.1, 0], [0.4, 0.6, 0], [0.7, 0.1, 0], [0.2, 0.1, 0]]), np.array([2.0, 2, 5, 9]))
    table = accuracy(says, image_set).set_index("attribute")  # pyright: ignore[reportArgumentType]
    np.testing.assert_array_equal(says.looked_at[0], image_set.images[[0, 3, 6, 9]])
    assert table.loc["smile", ["n_images", "accuracy", "majority"]].tolist() == [4, 0.75, 0.75]
    assert table.loc["glasses", ["accuracy", "majority"]].tolist() == [0.75, 1.0]
    assert table.loc["yaw", "mean_absolute_error"] == pytest.approx((2 + 1 + 1 + 0) / 4)
    assert table.loc["yaw", "correlation"] == pytest.approx(np.corrcoef([0, 3, 6, 9], [2, 2, 5, 9])[0, 1])
    constant = Says(says.answer.probability, np.zeros(4))
    assert np.isnan(accuracy(constant, image_set).set_index("attribute").loc["yaw", "correlation"])  # pyright: ignore[reportArgumentType]


def test_calibration_counts_sure_answers():
    image_set = made_set(12)
    image_set.index["smile"] = pd.array([True] * 9 + [False] * 3, dtype="boolean")
    says = Says(np.array([[0.95, 0.5, 0.5], [0.05, 0.5, 0.5], [0.7, 0.5, 0.5], [0.1, 0.5, 0.5]]), np.zeros(4))
    table = calibration(says, image_set, CONFIG)  # pyright: ignore[reportArgumentType]
    assert len(table) == 2 * 2 * 3
    for _, row in table[table["attribute"] == "smile"].iterrows():
        assert row[["n_images", "accuracy", "n_sure"]].tolist() == [4, 0.75, 3]
        assert row["accuracy_of_sure"] == pytest.approx(2 / 3)
    assert np.isnan(table[table["attribute"] == "glasses"]["accuracy_of_sure"]).all()


# ---- folder and stage -----------------------------------------------------------------------------------------------


def test_the_folder_brings_both_networks_back(trained, tmp_path: Path):
    write_attributes(tmp_path / "m", made_set(), CONFIG, CPU, trained)
    back = read_attributes(tmp_path / "m", CPU)
    assert back is not None
    images = made_set().images
    for role in ("chooser", "judge"):
        np.testing.assert_array_equal(back.seen(role, images).probability, trained[0].seen(role, images).probability)
    run = json.loads((tmp_path / "m" / "run.json").read_text())
    assert (run["trained"], run["n_images"], run["dataset"]) == (True, 40, "made")
    assert len(pd.read_parquet(tmp_path / "m" / "calibration.parquet")) == 12


def test_another_kind_of_model_or_none(tmp_path: Path):
    with pytest.raises(InputError, match=r"run\.json: missing"):
        read_attributes(tmp_path / "none", CPU)
    (tmp_path / "run.json").write_text('{"params": {"seeds": [0]}}')
    with pytest.raises(InputError, match="not a model of face attributes"):
        read_attributes(tmp_path, CPU)


@pytest.fixture
def world(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setattr(compute, "set_up", lambda _: None)  # it would change this very process
    sections = {
        "internals": {"face_attributes": dataclasses.asdict(dataclasses.replace(CONFIG, steps=3))},
        "compute": dataclasses.asdict(CPU),
    }
    YAML().dump(sections, tmp_path / "params.yaml")
    for name, known in (("with", True), ("without", False)):
        made = made_set(24, known=known)
        write_set(tmp_path / name, made.images, made.index, pd.DataFrame({"key": [], "reason": []}))
    return tmp_path


def test_the_stage_repeats_its_bytes(world: Path):
    for name in ("a", "b"):
        stage.main(world / "params.yaml", world / "with", world / name, world / f"{name}.parquet")
    for path in (world / "a").iterdir():
        assert path.read_bytes() == (world / "b" / path.name).read_bytes()
    assert (world / "a.parquet").read_bytes() == (world / "b.parquet").read_bytes()
    assert pd.read_parquet(world / "a.parquet")["attribute"].tolist() == ["smile", "glasses", "light hair", "yaw"]
    assert read_attributes(world / "a", CPU) is not None


def test_the_stage_on_a_set_that_knows_nothing(world: Path):
    stage.main(world / "params.yaml", world / "without", world / "m", world / "t.parquet")
    assert read_attributes(world / "m", CPU) is None
    run = json.loads((world / "m" / "run.json").read_text())
    assert run["note"] == "image set without does not know what its faces show: no smile, glasses, hair_colour, yaw"
    table = pd.read_parquet(world / "t.parquet")
    assert len(table) == 0
    assert table.dtypes.astype(str).to_dict() == {
        "attribute": "str",
        "n_images": "int64",
        "accuracy": "float64",
        "majority": "float64",
        "correlation": "float64",
        "mean_absolute_error": "float64",
    }
