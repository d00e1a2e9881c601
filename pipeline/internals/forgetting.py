"""Forgetting windows (DCGAN section 6.3.1, figure 6): the maps of G that windows are drawn by, and rooms without them.

On samples whose windows are known a logistic regression learns to tell what a layer of G gives inside the boxes from
what it gives elsewhere. Maps with positive weight are set to zero at all places, and the same z are drawn again.

The paper's layer is "the second highest convolution layer". Two readings: 8 x 8, the second from above if the projected
z counts as the highest, as the paper has it elsewhere, and of whose 512 maps the paper's 200 dropped ones are a part;
and 16 x 16, with 256 maps.

Beside the paper's rule stands a stricter one of ours. Random places of the same images lie lower or higher than windows
do, so that any map that is busy half-way up a wall speaks for a window; and of a narrow network's few maps the paper's
rule takes more than half, after which little is left of any room. Ours compares a place inside a box with the same
place of another sample that has no window there, and drops a fixed share of the maps, those of largest weight.
"""

import sys
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from annotated_types import Ge, Gt, Interval

from pipeline.core.errors import InputError
from pipeline.core.params import section
from pipeline.core.progress import Progress
from pipeline.core.seeding import numpy_stream
from pipeline.internals.frozen import FrozenGenerator
from pipeline.internals.part_detector import Detector, Detectors, cells_inside, iou
from pipeline.models.build import sides

LAYERS = (2, 3)  # how many rows of G lie before the maps: those of 8 x 8, those of 16 x 16
N_SHOWN = 10
SAME_IOU = 0.1  # what is detected afterwards is the old window if it overlaps it by at least this
PICTURES = ("kept", "dropped", "dropped_16x16", "random", "strongest", "random_strongest")

CLASSIFIER_COLUMNS = {
    **dict.fromkeys(("layer", "negatives"), "str"),
    **dict.fromkeys(("n_boxes", "n_positive", "n_negative"), "int64"),
    "accuracy": "float64",
    **dict.fromkeys(("n_maps", "n_positive_weights"), "int64"),
}
FORGETTING_COLUMNS = {
    **dict.fromkeys(("layer", "dropped"), "str"),
    **dict.fromkeys(("draw", "n_maps", "n_dropped", "n_images"), "int64"),
    **dict.fromkeys(("windows", "beds", "windows_kept", "beds_kept"), "int64"),
    "pixel_change": "float64",
}


Row = dict[str, str | int | float]  # of a table


class TooFewWindowsError(InputError):
    """The windows of the labelled samples are too few, or too much alike, to learn from."""


@section
class Matched:
    """``internals.forget_windows.matched``: our stricter rule.

    Attributes
    ----------
    C : as that of the paper's rule; a small one weighs each map by what it alone says
    dropped_share : of all maps, at most; only maps of positive weight
    """

    C: Annotated[float, Gt(0)]
    dropped_share: Annotated[float, Interval(gt=0, lt=1)]


@section
class ForgetWindows:
    """``internals.forget_windows`` in params.yaml.

    Attributes
    ----------
    n_labelled : samples of the deck whose windows are drawn by hand or detected
    negatives_per_positive : places outside the boxes, of the same images, for each place inside
    C : weight of the losses against half the squared norm of the weights; the intercept is not penalised
    n_folds : of the cross-validation by image that gives the classifier's accuracy
    matched : the rule of ours
    n_judged : new z that are drawn with and without the maps
    n_random_draws : controls of either rule, each of as many maps as it drops, drawn from all maps
    """

    seed: int
    n_labelled: Annotated[int, Ge(2)]
    negatives_per_positive: Annotated[float, Gt(0)]
    C: Annotated[float, Gt(0)]
    n_folds: Annotated[int, Ge(2)]
    matched: Matched
    n_judged: Annotated[int, Ge(N_SHOWN)]
    n_random_draws: Annotated[int, Ge(1)]


# ---- where windows are ----------------------------------------------------------------------------------------------


def detected_windows(detector: Detector, images: np.ndarray) -> dict[int, np.ndarray]:
    """Images with a detected window -> float64 (1, 4), as ``annotations.Boxes`` has them."""
    found = detector.detect(images)["window"]
    return {int(image): found[image : image + 1] for image in np.flatnonzero(np.isfinite(found[:, 0]))}


# ---- classifier -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Activations at places inside and outside the boxes.

    Attributes
    ----------
    activations : float64 (n, n_maps)
    inside : bool (n,)
    image : int64 (n,), which image a place is of
    """

    activations: np.ndarray
    inside: np.ndarray
    image: np.ndarray


def random_negatives(
    maps: np.ndarray, boxes: dict[int, np.ndarray], inside: np.ndarray, config: ForgetWindows
) -> Examples:
    """Places inside a box, and random other places of the images that have boxes (the paper's).

    Parameters
    ----------
    maps : (n, n_maps, side, side), of the labelled images
    boxes : image -> its boxes
    inside : bool (n, side, side), as :func:`places_inside`
    """
    has_box = np.isin(np.arange(len(maps)), list(boxes))
    outside = np.argwhere(~inside & has_box[:, None, None])
    n_negative = min(len(outside), round(config.negatives_per_positive * int(inside.sum())))
    stream = numpy_stream(config.seed, f"places outside {maps.shape[-1]}")
    return _examples(maps, np.argwhere(inside), outside[np.sort(stream.permutation(len(outside))[:n_negative])])


def matched_negatives(maps: np.ndarray, inside: np.ndarray, seed: int) -> Examples:
    """Places inside a box, and for each the same place of a random image that has no window there.

    A place that lies in a window in every image is left out.

    Raises
    ------
    TooFewWindowsError
        If all places are left out.
    """
    free = [np.flatnonzero(column) for column in (~inside).reshape(len(inside), -1).T]
    side, stream = inside.shape[-1], numpy_stream(seed, f"matched places {maps.shape[-1]}")
    positive, negative = [], []
    for image, y, x in np.argwhere(inside):
        others = free[y * side + x]
        if len(others):
            positive.append((image, y, x))
            negative.append((others[stream.integers(len(others))], y, x))
    if not positive:
        message = f"windows: they lie at the same places of all {len(maps)} labelled samples, so nothing stands beside "
        message += "them; expected samples without a window there: raise internals.forget_windows.n_labelled"
        raise TooFewWindowsError(message)
    return _examples(maps, np.array(positive), np.array(negative))


def _examples(maps: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> Examples:
    image, y, x = np.concatenate([positive, negative]).T
    inside = np.arange(len(image)) < len(positive)
    return Examples(activations=maps[image, :, y, x].astype(np.float64), inside=inside, image=image)


def places_inside(boxes: dict[int, np.ndarray], n_images: int, side: int, image_px: int) -> np.ndarray:
    """bool (n_images, side, side): whether the centre of a place of the maps lies in a box.

    Raises
    ------
    TooFewWindowsError
        If fewer than two images have such a place, or one of them has no other.
    """
    inside = np.zeros((n_images, side, side), dtype=bool)
    for image, corners in boxes.items():
        inside[image] = cells_inside(corners, side, side, image_px / side).any(axis=0)
    n_useful = int((inside.any(axis=(1, 2)) & ~inside.all(axis=(1, 2))).sum())
    if n_useful < 2:
        message = (
            f"windows: {n_useful} of {n_images} labelled samples have one that holds a place of the {side} x {side} "
            "maps and leaves one out, expected at least 2; mark more windows, or train the generator or the part "
            "detector longer"
        )
        raise TooFewWindowsError(message)
    return inside


def map_weights(found: Examples, c: float) -> np.ndarray:
    """float64 (n_maps,): weights of an l2-regularised logistic regression with intercept; positive speaks for a box."""
    return _regression(c).fit(found.activations, found.inside).coef_[0]


def cross_validated_accuracy(found: Examples, c: float, n_folds: int) -> float:
    """Share of places told right by regressions that saw no other place of the same image.

    NaN if there are so few images that one of the regressions would see places of one kind only.
    """
    from sklearn.model_selection import GroupKFold

    folds, right = GroupKFold(n_splits=min(n_folds, len(np.unique(found.image)))), 0
    for seen, left_out in folds.split(found.activations, found.inside, found.image):
        if found.inside[seen].all() or not found.inside[seen].any():
            return np.nan
        regression = _regression(c).fit(found.activations[seen], found.inside[seen])
        right += int(np.sum(regression.predict(found.activations[left_out]) == found.inside[left_out]))
    return right / len(found.inside)


def _regression(c: float):  # noqa: ANN202 - scikit-learn takes a second to import
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=c, tol=1e-6, max_iter=10_000)


def window_maps(weights: np.ndarray, at_most: int | None = None) -> np.ndarray:
    """Indices, ascending, of the maps of positive weight, or of the so many of largest weight among them."""
    strongest = np.argsort(-weights, kind="stable")[:at_most]
    return np.sort(strongest[weights[strongest] > 0])


# ---- dropping -------------------------------------------------------------------------------------------------------


def images_without(generator: FrozenGenerator, maps: torch.Tensor, dropped: np.ndarray, *, rows: int) -> np.ndarray:
    """uint8 (N, H, W, 3): what the rest of G draws of the maps behind ``rows`` rows, some set to zero everywhere."""
    left = maps.clone()
    left[:, torch.from_numpy(dropped)] = 0
    return generator.images_from(left, first_row=rows)


def random_maps(n_maps: int, n_dropped: int, seed: int, draw: int) -> np.ndarray:
    """Indices, ascending, of a control: the first maps of an order that each draw has of its own."""
    return np.sort(numpy_stream(seed, f"random maps of {n_maps}", draw).permutation(n_maps)[:n_dropped])


@dataclass(frozen=True, kw_only=True)
class Layer:
    """The maps behind the first ``rows`` rows of G: which of them either rule drops, ascending, and its classifiers."""

    name: str
    rows: int
    n_maps: int
    windows: np.ndarray
    strongest: np.ndarray
    classifiers: list[Row]


def classified(
    generator: FrozenGenerator, z: torch.Tensor, boxes: dict[int, np.ndarray], rows: int, config: ForgetWindows
) -> Layer:
    """Fit the classifiers of one layer to the labelled samples ``z``; errors as :func:`places_inside`."""
    maps = generator.maps(z, rows=rows).numpy()
    n_maps, side = maps.shape[1:3]
    inside = places_inside(boxes, len(maps), side, sides(generator.architecture)[0])
    classifiers: list[Row] = []
    name, n_boxes = f"{side}x{side}", sum(map(len, boxes.values()))

    def fitted(negatives: str, found: Examples, c: float) -> np.ndarray:
        weights = map_weights(found, c)
        classifiers.append(
            {
                "layer": name,
                "negatives": negatives,
                "n_boxes": n_boxes,
                "n_positive": int(found.inside.sum()),
                "n_negative": int((~found.inside).sum()),
                "accuracy": cross_validated_accuracy(found, c, config.n_folds),
                "n_maps": n_maps,
                "n_positive_weights": int((weights > 0).sum()),
            }
        )
        return weights

    windows = window_maps(fitted("random", random_negatives(maps, boxes, inside, config), config.C))
    weights = fitted("matched", matched_negatives(maps, inside, config.seed), config.matched.C)
    strongest = window_maps(weights, round(config.matched.dropped_share * n_maps))
    return Layer(name=name, rows=rows, n_maps=n_maps, windows=windows, strongest=strongest, classifiers=classifiers)


# ---- judging --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Before:
    """The judged samples as they are, and what is detected in them: part -> float64 (N, 4), NaN where none is."""

    images: np.ndarray
    parts: dict[str, np.ndarray]


def judged(detector: Detector, before: Before, after: np.ndarray) -> Row:
    """How many windows and beds are detected in changed images, how many are the old ones, and what else changed."""
    row: Row = {}
    for part, boxes in detector.detect(after).items():
        row[f"{part}s"] = int(np.isfinite(boxes[:, 0]).sum())
        row[f"{part}s_kept"] = int((iou(before.parts[part], boxes) >= SAME_IOU).sum())
    return row | {"pixel_change": mean_change(before.images, after)}


def mean_change(before: np.ndarray, after: np.ndarray) -> float:
    """Mean absolute difference of uint8 images, in [0, 1]."""
    total = sum(int(np.abs(a.astype(np.int16) - b).sum()) for a, b in zip(before, after, strict=True))
    return total / before.size / 255


def droppings(layer: Layer, config: ForgetWindows) -> list[tuple[str, int, np.ndarray]]:
    """What is dropped, under which number of a draw, and the indices of the maps."""
    sets = [("none", 0, np.empty(0, dtype=np.int64)), ("windows", 0, layer.windows), ("strongest", 0, layer.strongest)]
    for name, like in (("random", layer.windows), ("random_strongest", layer.strongest)):
        draws = range(config.n_random_draws)
        sets += [(name, draw, random_maps(layer.n_maps, len(like), config.seed, draw)) for draw in draws]
    return sets


# ---- experiment -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Forgetting:
    """What the stage writes; all of length 0 if nobody and nothing said where windows are.

    Attributes
    ----------
    pictures : name -> uint8 (10, H, W, 3): the same z with all maps, without the window maps of 8 x 8 and of 16 x 16
        by the paper's rule, and without as many random ones of 8 x 8; the same for 8 x 8 by ours
    forgetting : a row a layer and set of dropped maps; empty without a detector. layer, dropped ("none"; "windows" and
        "random": the paper's rule and its controls; "strongest" and "random_strongest": ours), draw, n_maps, n_dropped,
        n_images, windows, beds (images in which one is detected), windows_kept (of the images with a window before,
        those with one that overlaps it), beds_kept, pixel_change (mean absolute difference to the unchanged pixels,
        in [0, 1])
    classifier : a row a layer and rule: layer, negatives ("random": the paper's, "matched": ours), n_boxes, n_positive,
        n_negative, accuracy (cross-validated by image), n_maps, n_positive_weights
    """

    pictures: dict[str, np.ndarray]
    forgetting: pd.DataFrame
    classifier: pd.DataFrame


def forget_windows(
    generator: FrozenGenerator,
    boxes: dict[int, np.ndarray] | None,
    detectors: Detectors | None,
    config: ForgetWindows,
) -> Forgetting:
    """The whole experiment.

    Parameters
    ----------
    boxes : of the deck's first ``n_labelled`` samples, drawn by a person; None: the detector looks for windows
    detectors : one finds the windows of the deck, the other counts in the judged samples; None if there are none

    Returns
    -------
    Forgetting
        Without pictures and rows if nobody knows where windows are, or the detector finds too few, which is noted.

    Raises
    ------
    TooFewWindowsError
        If a person drew too few.
    """
    nothing = _written(dict.fromkeys(PICTURES, np.empty((0, *sides(generator.architecture)), dtype=np.uint8)), [], [])
    labelled, drawn_by_hand = generator.deck(config.n_labelled), boxes is not None
    if boxes is None and detectors is not None:
        boxes = detected_windows(detectors.labeller, generator.images(labelled))
    if boxes is None:
        return nothing
    try:
        layers = [classified(generator, labelled, boxes, rows, config) for rows in LAYERS]
    except TooFewWindowsError as error:
        if drawn_by_hand:
            raise
        print(f"note: {error}", file=sys.stderr)  # a generator without windows, as of an ablation, is a result
        return nothing
    z = generator.draw_z(config.n_judged, config.seed, "judged z")
    rows = _judged_layers(generator, layers, z, detectors.counter, config) if detectors else []
    shown = z[_shown(detectors.counter, generator.images(z))] if detectors else z[:N_SHOWN]
    classifiers = [row for layer in layers for row in layer.classifiers]
    return _written(_pictures(generator, layers, shown, config), rows, classifiers)


def _judged_layers(
    generator: FrozenGenerator, layers: list[Layer], z: torch.Tensor, detector: Detector, config: ForgetWindows
) -> list[Row]:
    images = generator.images(z)
    before, rows = Before(images=images, parts=detector.detect(images)), []
    todo = [(layer, droppings(layer, config)) for layer in layers]
    with Progress("forgetting windows", total=sum(len(sets) for _, sets in todo), unit="sets of maps") as progress:
        for layer, sets in todo:
            maps = generator.maps(z, rows=layer.rows)
            for dropped, draw, which in sets:
                row = {"layer": layer.name, "dropped": dropped, "draw": draw, "n_maps": layer.n_maps}
                row |= {"n_dropped": len(which), "n_images": len(z)}
                rows.append(row | judged(detector, before, images_without(generator, maps, which, rows=layer.rows)))
                progress.advance(1)
    return rows


def _shown(detector: Detector, images: np.ndarray) -> np.ndarray:
    """The first ten with a window, ascending; if there are not so many, the first ones of the others after them."""
    has_window = np.isfinite(detector.detect(images)["window"][:, 0])
    return np.concatenate([np.flatnonzero(has_window), np.flatnonzero(~has_window)])[:N_SHOWN]


def _pictures(
    generator: FrozenGenerator, layers: list[Layer], z: torch.Tensor, config: ForgetWindows
) -> dict[str, np.ndarray]:
    low, high = layers

    def without(layer: Layer, which: np.ndarray) -> np.ndarray:
        return images_without(generator, generator.maps(z, rows=layer.rows), which, rows=layer.rows)

    made = (
        generator.images(z),
        without(low, low.windows),
        without(high, high.windows),
        without(low, random_maps(low.n_maps, len(low.windows), config.seed, 0)),
        without(low, low.strongest),
        without(low, random_maps(low.n_maps, len(low.strongest), config.seed, 0)),
    )
    return dict(zip(PICTURES, made, strict=True))


def _written(pictures: dict[str, np.ndarray], forgetting: list[Row], classifier: list[Row]) -> Forgetting:
    return Forgetting(
        pictures=pictures,
        forgetting=pd.DataFrame(forgetting, columns=list(FORGETTING_COLUMNS)).astype(FORGETTING_COLUMNS),
        classifier=pd.DataFrame(classifier, columns=list(CLASSIFIER_COLUMNS)).astype(CLASSIFIER_COLUMNS),
    )
