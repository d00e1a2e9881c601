"""Train, validation and test, by seed and size."""

import numpy as np

from pipeline.core.errors import InputError
from pipeline.core.seeding import numpy_stream


def stratified_split(
    labels: np.ndarray, sizes: dict[str, int], *, seed: int, stratified: bool, where: str
) -> np.ndarray:
    """Name the split of each example.

    Parameters
    ----------
    labels : int array, shape (n,)
    sizes : examples of each split, in order; they must add up to n
    stratified : every split gets each class in the same share, as far as whole numbers allow

    Returns
    -------
    object array, shape (n,)
        The split's name of each example.

    Raises
    ------
    InputError
        If the sizes do not add up to n.
    """
    if sum(sizes.values()) != len(labels):
        asked = " + ".join(f"{size} {name}" for name, size in sizes.items())
        message = f"{where}: {asked} = {sum(sizes.values())} examples are asked for, the archive has {len(labels)}"
        raise InputError(message)
    order = numpy_stream(seed, "split").permutation(len(labels))
    if stratified:
        # The k-th of a class's n_c examples gets rank (k + 1/2) / n_c: cutting the sorted ranks cuts every class alike.
        rank = np.empty(len(labels))
        for label in np.unique(labels):
            mine = order[labels[order] == label]
            rank[mine] = (np.arange(len(mine)) + 0.5) / len(mine)
        order = order[
            np.lexsort((labels[order], rank[order]))
        ]  # ties by class: each round visits them in the same order
    split = np.empty(len(labels), dtype=object)
    split[order] = np.repeat(list(sizes), list(sizes.values()))
    return split


def labelled_subset(labels: np.ndarray, per_class: int, *, seed: int, where: str, draw: int = 0) -> np.ndarray:
    """Rows of a random balanced subset: ``per_class`` examples of each class, without replacement.

    Subsets of one ``seed`` and ``draw`` are nested: a larger one holds every smaller one, so that results over the
    number of labels differ by the labels added only. Other seeds and other draws are independent. A class has its own
    stream: what is drawn of it depends on its number of examples and on nothing else.

    Parameters
    ----------
    labels : int array, shape (n,)
        Of the training pool. Classes are 0 to the largest label; negative labels (-1 = none) are never drawn.
    draw : which of the seed's independent subsets: fold, split or repetition

    Returns
    -------
    int64 array, shape (n_classes * per_class,)
        Row numbers into ``labels``, ascending.

    Raises
    ------
    InputError
        If a class has fewer examples than are asked for, or there is no labelled example at all.
    """
    if per_class < 1 or not np.any(labels >= 0):
        message = f"{where}: {per_class} labels per class are asked for, {np.sum(labels >= 0)} training images have one"
        raise InputError(message)
    chosen: list[np.ndarray] = []
    for label in range(int(labels.max()) + 1):
        mine = np.flatnonzero(labels == label)
        if len(mine) < per_class:
            remedy = f"lower them to at most {len(mine)}" if len(mine) else "no subset of this set can be balanced"
            message = (
                f"{where}: class {label} has {len(mine)} training images, {per_class} labels per class are asked for; "
                f"{remedy}"
            )
            raise InputError(message)
        chosen.append(mine[numpy_stream(seed, f"labelled/{label}", draw).permutation(len(mine))[:per_class]])
    return np.sort(np.concatenate(chosen))


def validation_rows(labels: np.ndarray, size: int, *, seed: int, stratified: bool, where: str) -> np.ndarray:
    """Rows to take off a training set for validation; ``np.delete(np.arange(n), rows)`` is the pool that remains.

    Parameters
    ----------
    labels : int array, shape (n,)
    stratified : each class in its share, as far as whole numbers allow; else a plain shuffle (DCGAN's released code)

    Returns
    -------
    int64 array, shape (size,)
        Row numbers, ascending.

    Raises
    ------
    InputError
        If no example would be left on either side.
    """
    if not 0 < size < len(labels):
        message = (
            f"{where}: {size} validation images are asked for, the training set has {len(labels)}; "
            f"ask for 1 to {len(labels) - 1}"
        )
        raise InputError(message)
    sizes = {"train": len(labels) - size, "validation": size}
    split = stratified_split(labels, sizes, seed=seed, stratified=stratified, where=where)
    return np.flatnonzero(split == "validation")
