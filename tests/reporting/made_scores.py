"""Small made-up results of Table 3 of Improved GAN, of ImageNet and of the decks, as their stages leave them."""

import json

import numpy as np
import pandas as pd

NAMES = ("real", "is_ours", "is_bn", "is_nolabels_ha", "is_nosmooth", "is_nolabels", "is_nominibatch")
COLUMNS = ["seed", "quantity", "split", "value", "n_images", "n_labels"]
BESIDE = {"frechet": 12.5, "kernel": 0.004, "precision": 0.5, "recall": 0.4, "density": 0.9, "coverage": 0.3}
PARTS = ("architecture", "techniques", "pixels")
CHANGED = {  # in what a row differs from "Our methods"
    "is_ours": {},
    "is_bn": {"reference_batch": 0},
    "is_nolabels_ha": {"n_labels": 0, "historical_averaging": 0.1},
    "is_nosmooth": {"real_target": 1.0},
    "is_nolabels": {"n_labels": 0},
    "is_nominibatch": {"n_kernels": 0},
}
NO_NETWORK = "not run: the weights of 2015 are not at hand"


def params_of(name, **settings):
    found = {
        "dataset": "cifar10", "n_labels": 50_000, "batch_size": 100, "learning_rate": 0.0003, "seeds": [0, 1, 2],
        "beta1": 0.5, "beta2": 0.999, "adam_epsilon": 1e-8,
        "architecture": {
            "name": "minibatch_conv", "preset": "current", "z_dim": 100, "generator_width": 128,
            "discriminator_width": 96, "n_kernels": 100, "kernel_dim": 5, "weight_norm": True, "data_dependent": True,
            "noise": True, "reference_batch": 100,
        },
        "techniques": {
            "generator_loss": "minimax", "generator_steps": 3, "real_target": 0.9, "historical_averaging": 0.0,
            "parameter_average": 1e-4,
        },
        "pixels": {"offset": 127.5, "divisor": 128.0},
    }  # fmt: skip
    for key, value in {**CHANGED[name], **settings}.items():
        (where,) = (part for part in (found, *(found[part] for part in PARTS)) if key in part)
        where[key] = value
    return found


def scores_of(mean, spread, n_splits):
    """As many numbers with this mean and this population standard deviation."""
    steps = np.linspace(-1, 1, n_splits)
    return mean + spread * (steps / steps.std() if n_splits > 1 else 0 * steps)


def write_scores(
    folder, name, means=(3.0,), *, split_sd=0.25, n_splits=10, n_images=50_000, accuracy=80.5, inception=NO_NETWORK,
    inception_means=None, n_near=10_000, record=(), **settings
):  # fmt: skip
    """``means``: the classifier score of seed 0, 1, ...; of each the deviation over its splits is ``split_sd``."""
    folder.mkdir(parents=True, exist_ok=True)
    real = name == "real"
    params = {} if real else params_of(name, **settings)
    n_labels = 0 if real else params["n_labels"]
    rows = []
    for network, of_seeds in (("classifier", means), ("inception", inception_means or ())):
        for number, mean in enumerate(of_seeds):
            seed = -1 if real else number
            scores = scores_of(mean, split_sd, n_splits)
            rows += [(seed, f"{network}_score", split, value) for split, value in enumerate(scores)]
            rows += [(seed, f"{network}_{measure}", -1, value * (1 + number / 10)) for measure, value in BESIDE.items()]
    rows.append((-1, "classifier_accuracy", -1, accuracy))
    frame = pd.DataFrame(rows, columns=COLUMNS[:4]).assign(n_images=n_images, n_labels=n_labels)
    near = frame["quantity"].str.contains("precision|recall|density|coverage")
    frame.loc[near, "n_images"] = n_near
    frame.loc[frame["quantity"] == "classifier_accuracy", "n_images"] = 10_000
    frame.to_parquet(folder / f"{name}.parquet")
    found = {
        "run": name, "n_images": n_images, "steps": 0 if real else 600_000, "epochs": 0 if real else 1200,
        "batch_size": 0 if real else 100, "n_labels": n_labels, "n_seeds": 0 if real else len(means),
        "inception": inception, "params": params, "n_splits": n_splits, "n_neighbour_images": n_near,
        "reference": "test" if real else "train", "n_reference": 10_000 if real else 50_000, "ranked_by": "classifier",
    }  # fmt: skip
    (folder / f"{name}.json").write_text(json.dumps(found | dict(record)))


def write_table3(folder, *, inception_means=None, **options):
    """All rows; the lower in the paper, the lower the score, by 0.5 a row."""
    for number, name in enumerate(NAMES):
        means = (6.0,) if name == "real" else tuple(5.5 - 0.5 * number + shift for shift in (-0.1, 0.0, 0.1))
        write_scores(folder, name, means, inception_means=inception_means and inception_means[: len(means)], **options)


def write_score_samples(folder, name, images, *, top=None):
    """images uint8 (S, n, H, W, C)."""
    folder.mkdir(parents=True, exist_ok=True)
    top = images[0, :5] if top is None else top
    np.savez(folder / f"{name}.npz", images=images, top=top, kl=np.zeros(images.shape[1], np.float32))


def write_deck(folder, name, images, generated):
    """A deck as its stage leaves it."""
    from pipeline.turing.deck import deck_sha256

    out = folder / name
    out.mkdir(parents=True, exist_ok=True)
    np.save(out / "images.npy", images)
    keys = [str(row) for row in range(len(images))]
    truth = pd.DataFrame({"row": np.arange(len(images)), "generated": generated, "key": keys})
    truth.to_parquet(out / "truth.parquet")
    about = {"name": name, "title": f"title of {name}", "model": "mb_mnist", "dataset": "mnist"}
    about |= {"n_images": len(images), "sha256": deck_sha256(images, generated), "paper": None}
    (out / "deck.json").write_text(json.dumps(about))
