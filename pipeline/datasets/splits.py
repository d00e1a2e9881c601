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
