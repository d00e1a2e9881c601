"""Errors of single classifiers and of ensembles of them, from the logits of the test images.

Improved GAN's tables have "ensemble of 10 of our models" and do not say how the ten are combined; the authors' code
trains several seeds on one labelled subset. Here the members of an ensemble share their labelled subset (split), and
their class probabilities are averaged; averaged logits, which is the geometric mean of the probabilities, stand beside.
"""

from collections.abc import Callable

import numpy as np

from pipeline.core.errors import InputError

SPLIT = 0  # column of ``members``; the other is the seed


def member_errors(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Share of wrongly classified images of each member.

    Parameters
    ----------
    logits : float array (M, n_test, n_classes)
    labels : int array (n_test,), each in [0, n_classes)

    Returns
    -------
    float64 array (M,), each in [0, 1]. The class is that of the largest logit, the first among equals.

    Raises
    ------
    InputError
        If there is no member, the shapes do not fit, a label is none of the classes, or a logit is not finite.
    """
    _check_logits(logits, labels)
    return (logits.argmax(axis=-1) != labels).mean(axis=-1)


def averaged_probabilities(logits: np.ndarray) -> np.ndarray:
    """Logits (M, n, n_classes) -> float64 (n, n_classes): the mean over the members of softmax(logits)."""
    shifted = np.asarray(logits, dtype=np.float64)
    exponentials = np.exp(shifted - shifted.max(axis=-1, keepdims=True))  # the largest is 1: no overflow
    return (exponentials / exponentials.sum(axis=-1, keepdims=True)).mean(axis=0)


def averaged_logits(logits: np.ndarray) -> np.ndarray:
    """Logits (M, n, n_classes) -> float64 (n, n_classes): their mean over the members."""
    return np.asarray(logits, dtype=np.float64).mean(axis=0)


Combine = Callable[[np.ndarray], np.ndarray]


def ensemble_error(
    logits: np.ndarray, labels: np.ndarray, members: np.ndarray, combine: Combine = averaged_probabilities
) -> float:
    """Share of images that one ensemble classifies wrongly.

    Parameters
    ----------
    logits, labels : as :func:`member_errors`
    members : int array (M, 2): split and seed of each member; one split, and no network twice
    combine : :func:`averaged_probabilities` or :func:`averaged_logits`

    Raises
    ------
    InputError
        As :func:`member_errors`, and if the members are of several splits or one of them is there twice.
    """
    _check_logits(logits, labels)
    _check_members(members, len(logits))
    if len(splits := np.unique(members[:, SPLIT])) > 1:
        message = (
            f"ensemble: its members are of the splits {', '.join(map(str, splits))}; expected members of one split, "
            "because an ensemble has one set of labelled images; combine the seeds of each split by themselves"
        )
        raise InputError(message)
    return float((combine(logits).argmax(axis=-1) != labels).mean())


def split_errors(
    logits: np.ndarray, labels: np.ndarray, members: np.ndarray, combine: Combine = averaged_probabilities
) -> np.ndarray:
    """float64 (n_splits,): :func:`ensemble_error` of all seeds of each split, splits in the order of the members."""
    _check_logits(logits, labels)
    _check_members(members, len(logits))
    chosen = [members[:, SPLIT] == split for split in splits_of(members)]
    return np.array([ensemble_error(logits[rows], labels, members[rows], combine) for rows in chosen])


def splits_of(members: np.ndarray) -> list[int]:
    """The splits of members (M, 2), each once, in their order."""
    return list(dict.fromkeys(members[:, SPLIT].tolist()))


def first_of_each_split(members: np.ndarray) -> np.ndarray:
    """int64 (n_splits,): where in members (M, 2) the first seed of each split stands."""
    found = members[:, SPLIT].tolist()
    return np.array([found.index(split) for split in splits_of(members)], dtype=np.int64)


def _check_logits(logits: np.ndarray, labels: np.ndarray) -> None:
    if not len(logits):
        message = "ensemble: no member; expected the logits of at least one network; train one first"
        raise InputError(message)
    if logits.ndim != 3 or labels.ndim != 1 or logits.shape[1] != len(labels) or not len(labels):
        message = (
            f"ensemble: logits of shape {logits.shape} and labels of shape {labels.shape}; expected (members, images, "
            "classes) and (images,) with as many images, at least one; take both from one run"
        )
        raise InputError(message)
    n_classes = logits.shape[2]
    if labels.min() < 0 or labels.max() >= n_classes:
        message = (
            f"ensemble: labels from {labels.min()} to {labels.max()}; expected 0 to {n_classes - 1}, a class of every "
            "test image; leave out images without a label"
        )
        raise InputError(message)
    if not np.isfinite(logits).all():
        bad = [number for number, of_member in enumerate(logits) if not np.isfinite(of_member).all()]
        message = (
            f"ensemble: the logits of member {', '.join(map(str, bad))} (counted from 0) are not all finite; expected "
            "those of networks whose training did not diverge; train them again"
        )
        raise InputError(message)


def _check_members(members: np.ndarray, n_logits: int) -> None:
    if members.shape != (n_logits, 2):
        message = (
            f"ensemble: members of shape {members.shape} beside the logits of {n_logits} networks; expected "
            f"({n_logits}, 2), the split and seed of each; take both from one run"
        )
        raise InputError(message)
    if len(np.unique(members, axis=0)) < n_logits:
        message = (
            "ensemble: a pair of split and seed stands twice among the members; expected each network once; take the "
            "double one out"
        )
        raise InputError(message)
