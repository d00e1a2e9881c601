"""Small made-up results folders of DCGAN's section 6, in the form in which the stages leave them."""

import numpy as np
import pandas as pd

N_SHADES = 200  # fewer than the colours of a picture, which are then exact
LAYERS = ("8x8", "16x16")
N_MAPS = {"8x8": 20, "16x16": 12}
FORGETTING = [
    "layer", "dropped", "draw", "n_maps", "n_dropped", "n_images", "windows", "beds", "windows_kept", "beds_kept",
    "pixel_change",
]  # fmt: skip
CLASSIFIER = ["layer", "negatives", "n_boxes", "n_positive", "n_negative", "accuracy", "n_maps", "n_positive_weights"]
DETECTOR = [
    *("detector", "part", "n_images", "n_true", "n_found", "n_right", "precision", "recall", "mean_iou"),
    *("n_without", "n_found_without"),
]
ARITHMETIC = [
    *("space", "n_exemplars", "n_problems", "n_right", "share", "low", "high"),
    *("n_gained", "n_lost", "n_kinds", "n_kinds_left_out"),
]
ATTRIBUTES = ["attribute", "n_images", "accuracy", "majority", "correlation", "mean_absolute_error"]
SHARES = [f"{measure}_in_{name}" for measure in ("centre", "energy", "excess") for name in ("bed", "window", "boxes")]
GUIDED = ["network", "feature", "n_top", *SHARES, "area_of_boxes"]
OTHERS = ["smile", "glasses", "light_hair"]
TURN = ["draw", "sample", "coefficient", "yaw", *OTHERS]


def scenes(*shape, seed=0):
    """uint8 (..., side, side, 3): two shades of a hue, an edge, a bright spot and grain; much as photographs."""
    rng = np.random.default_rng(seed)
    side = shape[-1]
    y, x = np.mgrid[0:side, 0:side] / side
    found = np.empty((*shape, side, 3))
    for image in found.reshape(-1, side, side, 3):
        dark, light = np.sort(rng.uniform(0, 255, (2, 3)), axis=0)
        slope, place = rng.uniform(-1, 1, 2), rng.uniform(0.2, 0.8, 2)
        shade = np.clip(0.5 + slope[0] * (x - 0.5) + slope[1] * (y - 0.5) + 0.3 * (x > place[0]), 0, 1)
        shade = np.maximum(shade, np.exp(-60 * ((x - place[0]) ** 2 + (y - place[1]) ** 2)))
        image[:] = dark + shade[..., np.newaxis] * (light - dark) + rng.normal(0, 4, (side, side, 1))
    return np.clip(found, 0, 255).astype(np.uint8)


def numbered(*shape):
    """uint8 (..., side, side, 3): every image is one shade of its number, so that a picture shows which lies where."""
    n = int(np.prod(shape[:-1]))
    shades = (np.arange(n) % N_SHADES + 1).astype(np.uint8).reshape(*shape[:-1], 1, 1, 1)
    return np.broadcast_to(shades, (*shape, shape[-1], 3)).copy()


def write_samples(folder, run="dcgan_lsun", *, images=None, epochs=(1, 5), n_images=60, side=8):
    images = numbered(len(epochs), n_images, side) if images is None else images
    np.savez(folder / f"{run}.npz", images=images, epochs=np.array(epochs, dtype=np.int64))


def write_walk(folder, run="dcgan_lsun", *, frames=None, columns=10, n_pairs=9):
    """Steps of 1 in the features, but 3 from one segment to the next; pairs 10, 11, ..."""
    frames = numbered(10 * columns, 8) if frames is None else frames
    np.savez(folder / f"{run}.npz", frames=frames)
    number = np.arange(len(frames) - 1)
    steps = pd.DataFrame({"kind": "step", "number": number, "segment": number // columns})
    steps["distance"] = np.where((number + 1) % columns == 0, 3.0, 1.0)
    steps["pixel_distance"] = 0.5
    pairs = pd.DataFrame({"kind": "random", "number": np.arange(n_pairs), "segment": -1})
    pairs["distance"] = 10.0 + np.arange(n_pairs)
    pairs["pixel_distance"] = 5.0
    pd.concat([steps, pairs], ignore_index=True).to_parquet(folder / f"{run}.parquet")


def write_guided(folder, run="dcgan_lsun", *, panels=None, n_features=16, known=True):
    """The trained D has 0.3 more of everything in the boxes than the random one, which is at chance."""
    panels = {name: numbered(6, 5, 61) for name in ("trained", "random")} if panels is None else panels
    np.savez(folder / f"{run}.npz", **panels)
    rows = []
    for network, more in (("trained", 0.3), ("random", 0.0)):
        for feature in range(n_features):
            shares = dict.fromkeys(SHARES, 0.2 + more + 0.01 * feature)
            rows.append({"network": network, "feature": feature, "n_top": 10, **shares, "area_of_boxes": 0.25})
    frame = pd.DataFrame(rows, columns=GUIDED)
    if not known:
        frame[[*SHARES, "area_of_boxes"]] = np.nan
        frame["n_top"] = 0
    frame.to_parquet(folder / f"{run}.parquet")


def write_forgetting(folder, *, images=None, pictures=True, judged=True, labelled=True, n_draws=4):
    """100 of 120 images with a window, 30 once window maps are dropped; random maps leave 88 on average."""
    names = ("kept", "dropped", "dropped_16x16", "random", "strongest")
    images = numbered(len(names), 10, 8) if images is None else images
    if not pictures:
        images = np.zeros((len(names), 0, 8, 8, 3), dtype=np.uint8)
    np.savez(folder / "pictures.npz", **dict(zip(names, images, strict=True)))
    rows = []
    for layer in LAYERS if judged else ():
        n_maps = N_MAPS[layer]
        rows.append((layer, "none", 0, n_maps, 0, 120, 100, 110, 100, 110, 0.0))
        rows.append((layer, "windows", 0, n_maps, 7, 120, 30, 99, 25, 95, 0.04))
        rows.append((layer, "strongest", 0, n_maps, 3, 120, 45, 108, 40, 105, 0.02))
        rows.append((layer, "random_strongest", 0, n_maps, 3, 120, 96, 109, 90, 108, 0.02))
        rows += [(layer, "random", i, n_maps, 7, 120, 85 + 2 * i, 104, 80, 100, 0.05) for i in range(n_draws)]
    pd.DataFrame(rows, columns=FORGETTING).to_parquet(folder / "forgetting.parquet")
    rules = (("random", 300, 0.9, 7), ("matched", 100, 0.6, 5))
    rows = [
        (layer, negatives, 52, 300, n_negative, accuracy, N_MAPS[layer], n_positive_weights)
        for layer in (LAYERS if labelled else ())
        for negatives, n_negative, accuracy, n_positive_weights in rules
    ]
    pd.DataFrame(rows, columns=CLASSIFIER).to_parquet(folder / "classifier.parquet")
    rows = [
        ("labeller", "window", 200, 150, 150, 120, 0.8, 0.8, 0.7, 50, 9),
        ("labeller", "bed", 200, 190, 190, 152, 0.8, 0.8, 0.7, 10, 3),
        ("counter", "window", 200, 150, 140, 126, 0.9, 0.84, 0.75, 50, 6),
        ("counter", "bed", 200, 190, 190, 171, 0.9, 0.9, 0.8, 10, 2),
    ]
    pd.DataFrame(rows if judged else [], columns=DETECTOR).to_parquet(folder / "detector.parquet")


def write_arithmetic(folder, *, faces=None, pictures=True, judged=True, side=8):
    """z solves 40, 60, 80 % of 200 problems with 1, 3, 9 exemplars, pixels 30, 30, 40 %; more exemplars lose 10."""
    n = 2 if pictures else 0
    concepts = [["smiling, dark hair", "neutral, dark hair", "neutral, fair hair"]] * n
    faces = numbered(2, 30, side) if faces is None else faces
    side = faces.shape[2]
    faces = faces[:n]
    np.savez(
        folder / "pictures.npz",
        concepts=np.array(concepts, dtype="U32").reshape(n, 3),
        exemplars=faces[:, :9].reshape(n, 3, 3, side, side, 3),
        means=faces[:, 9:12],
        results=faces[:, 12:21],
        pixel_means=faces[:, 21:24],
        pixel_results=faces[:, 24],
    )  # fmt: skip
    rows = []
    for space, shares in (("z", (0.4, 0.6, 0.8)), ("pixels", (0.3, 0.3, 0.4)), ("start", (0.1, 0.15, 0.1))):
        for k, s in zip((1, 3, 9), shares, strict=True):
            n, fewest = round(200 * s), round(200 * shares[0])
            n_lost = 0 if k == 1 else 10
            rows.append((space, k, 200, n, s, s - 0.07, s + 0.07, n - fewest + n_lost, n_lost, 24, 6))
    rows.append(("chance", 0, 200, 20, 0.1, 0.06, 0.14, 0, 0, 24, 6))
    pd.DataFrame(rows if judged else [], columns=ARITHMETIC).to_parquet(folder / "arithmetic.parquet")
    rows = [("smile", 480, 0.95, 0.55, np.nan, np.nan), ("yaw", 480, np.nan, np.nan, 0.93, 4.2)]
    pd.DataFrame(rows if judged else [], columns=ATTRIBUTES).to_parquet(folder / "attributes.parquet")


def write_turn(folder, *, images=None, pictures=True, judged=True, n_samples=6, n_draws=1):
    """Yaw is 20 degrees times the coefficient and one more in each draw, plus the sample's own.

    The first sample of each draw begins to smile, the first two lose their glasses, no hair changes.
    """
    coefficients = np.linspace(-1, 1, 11)
    images = numbered(5, 11, 8) if images is None else images
    n_rows = len(images) if pictures else 0
    np.savez(folder / "pictures.npz", images=images[:n_rows], coefficients=coefficients if pictures else np.empty(0))
    rows = [
        (d, s, c, (20 + d) * c + 2 * (s - 2.5), (c + 1) / 2 if s < 1 else 0.2, (1 - c) / 2 if s < 2 else 0.9, 0.7)
        for d in range(n_draws)
        for s in range(n_samples if judged else 0)
        for c in coefficients
    ]
    frame = pd.DataFrame(rows, columns=TURN)
    frame.astype({"draw": "int64", "sample": "int64"}).to_parquet(folder / "turn.parquet")


def write_distances(folder, run="dcgan_lsun", *, held_out="validation", n_samples=(100, 1000, 10_000)):
    """Training images are nearer by 1; the nearest of samples is 2, 3, ... away, that of held-out images 4, 5, ..."""
    (folder / run).mkdir(exist_ok=True)
    rows = [
        (split, n, 80 if split == "train" else 50, 10.0 - i - (split == "train"))
        for split in (held_out, "train")
        for i, n in enumerate(n_samples)
    ]
    frame = pd.DataFrame(rows, columns=["split", "n_samples", "n_images", "mean_distance"])
    frame.to_parquet(folder / run / f"{run}_distances.parquet")
    rows = [("sample", i, space, f"k{i}", 2.0 + i) for space in ("features", "pixels") for i in range(5)]
    rows += [
        ("held_out", i, space, f"h{i}", 4.0 + i + 2 * (space == "pixels"))
        for space in ("features", "pixels")
        for i in range(9)
    ]
    frame = pd.DataFrame(rows, columns=["what", "number", "space", "key", "distance"])
    frame.to_parquet(folder / run / f"{run}_nearest.parquet")
