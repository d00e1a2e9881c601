"""Small made-up results of the stage ``semisup``, in the form in which it leaves them."""

import json

import numpy as np
import pandas as pd

N_TEST, CLASSES = 200, 10
PARTS = ("architecture", "techniques", "pixels")
HISTORY = ("split", "seed", "step", "epoch", "learning_rate", "labelled_loss", "unsupervised_loss")


def members_of(n_splits, n_seeds):
    return [(split, seed) for split in range(n_splits) for seed in range(n_seeds)]


def write_images(folder, key, *, images=None, members=((0, 0),), n=100, side=8, channels=1):
    """Image i of a network is one shade of i + 1, so that a picture shows which lies where."""
    if images is None:
        shades = np.arange(n, dtype=np.uint8) + 1
        images = np.broadcast_to(shades[:, None, None, None], (len(members), n, side, side, channels))
    np.savez(folder / f"{key}.npz", images=images, members=np.array(members, dtype=np.int64))


def logits(wrong, n_test=N_TEST):
    """float32 (M, n_test, 10), labels int64 (n_test,): of network m, ``wrong[m]`` images are given another class."""
    labels = np.arange(n_test) % CLASSES
    said = np.broadcast_to(labels, (len(wrong), n_test)).copy()
    for number, n_wrong in enumerate(wrong):
        said[number, :n_wrong] = (labels[:n_wrong] + 1) % CLASSES
    return np.eye(CLASSES, dtype=np.float32)[said], labels


def params_of(n_labels, **settings):
    """As the stage writes them, of MNIST in the authors' sizes but for ``settings``, by name wherever they stand."""
    found = {
        "n_labels": n_labels, "batch_size": 100, "learning_rate": 0.003, "constant_epochs": 300, "decay_epochs": 0,
        "labels_only_epochs": 5, "beta1": 0.5, "beta2": 0.999, "adam_epsilon": 1e-8,
        "architecture": {
            "name": "semisup_mnist", "preset": "current", "z_dim": 100, "generator_width": 500,
            "discriminator_width": 250, "weight_norm": True, "data_dependent": True, "noise": True,
            "reference_batch": 0,
        },
        "techniques": {
            "generator_loss": "squared_feature_matching", "generator_steps": 1, "real_target": 1.0,
            "historical_averaging": 0.0, "parameter_average": 1e-4,
        },
        "pixels": {"offset": 0.0, "divisor": 255.0},
    }  # fmt: skip
    for name, value in settings.items():
        where = [part for part in (found, *(found[part] for part in PARTS)) if name in part]
        (where or [found["architecture"]])[0][name] = value  # only the minibatch layer has params of its own
    return found


def write_run(
    folder, dataset, key, *, n_labels, wrong=(10, 14), alone=(50, 60), members=((0, 0), (0, 1)), epochs=(2, 4, 6),
    collapsed=False, lowest_loss=0.3, n_test=N_TEST, **settings
):  # fmt: skip
    """Networks with ``wrong`` test images at the end, twice as many an epoch before, and so on; ``alone`` without G."""
    out = folder / dataset / key
    out.mkdir(parents=True, exist_ok=True)
    record = {"run": key, "params": params_of(n_labels, **settings), "steps": 240, "labels_only_steps": 200}
    (out / "run.json").write_text(json.dumps(record | {"n_images": 4000}))
    found, labels = logits(wrong, n_test)
    without = logits(alone, n_test)[0] if alone else np.empty((0, n_test, CLASSES), dtype=np.float32)
    np.savez(out / "logits.npz", members=np.array(members), labels=labels, logits=found, labels_only=without)
    rows = [
        (*member, epoch, 100 * n_wrong / n_test * (len(epochs) - i), 100 * n_wrong / n_test * (len(epochs) - i) + 1)
        for i, epoch in enumerate(epochs)
        for member, n_wrong in zip(members, wrong, strict=True)
    ]
    columns = ["split", "seed", "epoch", "error_percent", "error_percent_last"]
    pd.DataFrame(rows, columns=columns).to_parquet(out / "errors.parquet")
    health = [(*member, epochs[-1], 0.01 if collapsed else 0.5, collapsed) for member in members]
    columns = ["split", "seed", "epoch", "diversity", "collapsed"]
    pd.DataFrame(health, columns=columns).to_parquet(out / "health.parquet")
    history = [(*member, 50 * i, i, 0.003, 0.1, lowest_loss * i) for i in (1, 2) for member in members]
    pd.DataFrame(history, columns=HISTORY).to_parquet(out / "history.parquet")
