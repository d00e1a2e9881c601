"""Training of the hash network: it learns, a resumed run ends in the same bytes, damaged checkpoints are refused."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.core.compute import Compute
from pipeline.core.errors import InputError
from pipeline.core.seeding import numpy_stream
from pipeline.core.store import ImageSet
from pipeline.models.hash_autoencoder import downsampled, inputs_of
from pipeline.models.store import named_tensors, write_tensors
from pipeline.training import checkpoint, hash_model
from pipeline.training.hash_model import HashModel, initial_state, restore, save, train, training_step

COMPUTE = Compute(device="cpu", threads=1, precision="auto")
CONFIG = HashModel(
    dataset="made", split="train", seed=0, masking=0.2, dropout=0.5, learning_rate=0.001, batch_size=8, epochs=3
)
N_TRAIN = 21  # two whole batches and one of five an epoch


def made_set(side: int = 32) -> ImageSet:
    """Smooth coloured images; every fourth is of another split."""
    n = N_TRAIN // 3 * 4
    coarse = numpy_stream(0, "images").random((n, 4, 4, 3))
    images = (np.kron(coarse, np.ones((1, side // 4, side // 4, 1))) * 255).astype(np.uint8)
    split = np.where(np.arange(n) % 4 == 3, "validation", "train")
    index = pd.DataFrame({"key": [f"{i}" for i in range(n)], "split": split, "label": -1, "source": "made"})
    return ImageSet(path=Path("made"), images=images, index=index)


def test_it_learns_and_says_so(tmp_path):
    config = dataclasses.replace(CONFIG, epochs=40)
    trained = train(made_set(), config, COMPUTE, tmp_path)
    history = trained.history
    assert trained.steps == 40 * 3
    assert list(history.columns) == [
        "seed",
        "epoch",
        "step",
        "loss",
        "dead_units",
        "constant_units",
        "active_share",
    ]
    assert history["epoch"].tolist() == list(range(40))
    assert history["step"].tolist() == list(range(3, 121, 3))
    assert 0 < history["loss"].iloc[-1] < 0.75 * history["loss"].iloc[0]
    assert history["constant_units"].ge(history["dead_units"]).all()
    assert {*trained.tensors} == {f"seed0/autoencoder/{n}coder.{w}" for n in ("en", "de") for w in ("weight", "bias")}


def test_history_is_the_mean_over_the_epoch(tmp_path):
    """Without noise and with a rate near zero the loss is that of the initial network on all training images."""
    config = dataclasses.replace(CONFIG, masking=0.0, dropout=0.0, learning_rate=1e-12, epochs=1)
    image_set = made_set(64)
    network = initial_state(config, COMPUTE).network
    x = inputs_of(downsampled(image_set.images[image_set.rows("train")], image_set.path), "cpu")
    (row,) = train(image_set, config, COMPUTE, tmp_path).history.to_dict("records")
    assert row["loss"] == pytest.approx((network(x) - x).square().mean().item(), rel=1e-5)
    assert row["active_share"] == pytest.approx((network.units(x) > 0).double().mean().item(), abs=1e-3)


def test_units_that_do_not_tell_images_apart():
    state = initial_state(CONFIG, COMPUTE)
    state.active[:] = 5
    state.active[:4] = 0
    state.active[4:20] = 10
    state.loss_sum.fill_(3.0)
    state.step = 7
    state.log(CONFIG, epoch=2, n_images=10)
    (row,) = state.history
    assert row == {
        "seed": 0,
        "epoch": 2,
        "step": 7,
        "loss": 0.3,
        "dead_units": 4 / 128,
        "constant_units": 20 / 128,
        "active_share": pytest.approx((16 * 10 + 108 * 5) / 1280),
    }
    assert (state.loss_sum.item(), state.active.sum().item()) == (0, 0)


def test_one_update_by_hand():
    """Masked inputs, dropped units scaled by 1 / (1 - p), mean squared error to the clean input, Adam."""
    state, clean = initial_state(CONFIG, COMPUTE), inputs_of(made_set().images[:8], "cpu")
    mask = hash_model._kept(8, 3072, 0.2, 0, "hash masking", 0)
    dropped = hash_model._kept(8, 128, 0.5, 0, "hash dropout", 0)
    assert mask.double().mean().item() == pytest.approx(0.8, abs=0.02)
    assert dropped.double().mean().item() == pytest.approx(0.5, abs=0.1)
    other = initial_state(CONFIG, COMPUTE).network
    adam = torch.optim.Adam(other.parameters(), lr=0.001)
    hidden = torch.relu(other.encoder(torch.where(mask, clean, 0.0)))
    loss = (other.decoder(torch.where(dropped, hidden * 2, 0.0)) - clean).pow(2).mean()
    loss.backward()
    adam.step()
    training_step(state, CONFIG, clean)
    assert state.loss_sum.item() / 8 == pytest.approx(loss.item(), rel=1e-6)
    for mine, theirs in zip(state.network.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)
    assert state.active.tolist() == (hidden > 0).sum(dim=0).tolist()


@pytest.mark.parametrize("broken_at", [0, 1, 3, 5, 8])
def test_interrupted_equals_unbroken(tmp_path, monkeypatch, broken_at):
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN", 0.0)
    unbroken = train(made_set(), CONFIG, COMPUTE, tmp_path / "a")
    step, said = hash_model.training_step, []

    def told(state, config, clean):
        if len(said) == broken_at:
            raise KeyboardInterrupt
        said.append(state.step)
        step(state, config, clean)

    monkeypatch.setattr(hash_model, "training_step", told)
    with pytest.raises(KeyboardInterrupt):
        train(made_set(), CONFIG, COMPUTE, tmp_path / "b")
    monkeypatch.setattr(hash_model, "training_step", lambda *a: (said.append(a[0].step), step(*a)))
    resumed = train(made_set(), CONFIG, COMPUTE, tmp_path / "b")
    assert said == list(range(9))
    assert {name: t.numpy().tobytes() for name, t in resumed.tensors.items()} == {
        name: t.numpy().tobytes() for name, t in unbroken.tensors.items()
    }
    assert resumed.history.equals(unbroken.history)
    assert (tmp_path / "a/seed0.safetensors").read_bytes() == (tmp_path / "b/seed0.safetensors").read_bytes()


def test_a_finished_run_is_not_repeated(tmp_path, monkeypatch):
    finished = train(made_set(), CONFIG, COMPUTE, tmp_path)
    monkeypatch.setattr(hash_model, "training_step", None)
    assert train(made_set(), CONFIG, COMPUTE, tmp_path).history.equals(finished.history)


def test_another_seed_is_another_network(tmp_path):
    one = train(made_set(), CONFIG, COMPUTE, tmp_path / "a").tensors["seed0/autoencoder/encoder.weight"]
    other = train(made_set(), dataclasses.replace(CONFIG, seed=1), COMPUTE, tmp_path / "b").tensors
    assert not torch.equal(one, other["seed1/autoencoder/encoder.weight"])


def test_only_the_split_is_learnt_from(tmp_path):
    image_set = made_set()
    before = train(image_set, CONFIG, COMPUTE, tmp_path / "a").tensors["seed0/autoencoder/encoder.weight"]
    image_set.images[image_set.rows("validation")] = 0
    after = train(image_set, CONFIG, COMPUTE, tmp_path / "b").tensors["seed0/autoencoder/encoder.weight"]
    assert torch.equal(before, after)
    with pytest.raises(InputError, match="no images in split 'test'"):
        train(image_set, dataclasses.replace(CONFIG, split="test"), COMPUTE, tmp_path / "c")


def test_checkpoints_that_are_none(tmp_path):
    path, state = tmp_path / "seed0.safetensors", initial_state(CONFIG, COMPUTE)
    training_step(state, CONFIG, inputs_of(made_set().images[:8], "cpu"))
    save(path, state)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=f"{path}: not a whole safetensors file"):
        restore(path, initial_state(CONFIG, COMPUTE))
    for note in ("", "{}", json.dumps({"step": 3})):
        write_tensors(path, named_tensors("autoencoder", state.network), note=note)
        with pytest.raises(InputError, match=f"{path}: not a checkpoint of the hash model"):
            restore(path, initial_state(CONFIG, COMPUTE))
    write_tensors(path, {"autoencoder/encoder.weight": torch.zeros(3, 3)})
    with pytest.raises(InputError, match="'autoencoder' is not this network"):
        restore(path, initial_state(CONFIG, COMPUTE))


def test_a_loss_that_is_not_finite_stops_before_it_is_saved(tmp_path):
    config = dataclasses.replace(CONFIG, learning_rate=1e30)
    with pytest.raises(InputError, match=r"^hash model: a loss or a weight is NaN or infinite in step 3"):
        train(made_set(), config, COMPUTE, tmp_path)
    assert list(tmp_path.iterdir()) == []
