"""A turn vector in z (DCGAN, section 6.3.2, Figure 8): added to random faces it should turn them, measured in degrees.

The paper averages four samples that look to the left and four that look to the right. The figure's centre column is the
sample itself, so the vector is half of the difference, and the outer columns are one vector away.
"""

import math
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from annotated_types import Ge, Interval

from pipeline.core.errors import InputError
from pipeline.core.params import section
from pipeline.core.seeding import numpy_stream
from pipeline.internals.annotations import Exemplars, Turn
from pipeline.internals.face_attributes import BINARY, Attributes
from pipeline.internals.frozen import FrozenGenerator
from pipeline.models.build import sides

SHOWN = 5  # rows of Figure 8
OTHERS = tuple(name.replace(" ", "_") for name in BINARY)  # what should not change with the yaw
COLUMNS = {
    "draw": "int64",
    "sample": "int64",
    "coefficient": "float64",
    "yaw": "float64",
    **dict.fromkeys(OTHERS, "float64"),
}


@section
class TurnVector:
    """``internals.turn`` in params.yaml.

    Attributes
    ----------
    seed : draws the exemplars and the faces that are turned
    n_exemplars : averaged on either side
    extreme_share : of the deck; the exemplars of a side are drawn among so many faces that the chooser sees turned
        furthest
    n_coefficients : from -1 to 1 in equal steps; odd, so that the centre is the face itself
    n_judged : faces that each vector turns, whose yaw is measured; the first five of the first vector are shown
    n_draws : vectors, each of exemplars drawn anew; those that people name give one
    """

    seed: int
    n_exemplars: Annotated[int, Ge(1)]
    extreme_share: Annotated[float, Interval(gt=0, le=0.5)]
    n_coefficients: Annotated[int, Ge(3)]
    n_judged: Annotated[int, Ge(1)]
    n_draws: Annotated[int, Ge(1)]

    def __post_init__(self) -> None:
        if self.n_coefficients % 2 == 0:
            message = f"n_coefficients must be odd, so that the face itself is the centre, found {self.n_coefficients}"
            raise ValueError(message)


def chosen_exemplars(yaw: np.ndarray, config: TurnVector, draw: int) -> Turn:
    """Exemplars drawn by seed among the faces that look furthest to the left (the lowest yaw) and to the right.

    Raises
    ------
    InputError
        If that share of the deck has too few faces.
    """
    n = math.floor(config.extreme_share * len(yaw))  # never more than half: no face looks both ways
    if n < config.n_exemplars:
        message = (
            f"params, internals.turn: a share of {config.extreme_share} (extreme_share) of the deck's {len(yaw)} faces "
            f"is {n}, expected at least {config.n_exemplars} (n_exemplars); raise extreme_share or "
            "internals.arithmetic.n_deck"
        )
        raise InputError(message)
    order = np.argsort(yaw, kind="stable")
    sides_of = {"turn, left": order[:n], "turn, right": order[-n:]}
    left, right = (
        tuple(numpy_stream(config.seed, name, draw).permutation(found)[: config.n_exemplars].tolist())
        for name, found in sides_of.items()
    )
    return Turn(left=left, right=right)


def turn_vector(z: torch.Tensor, exemplars: Turn) -> torch.Tensor:
    """Half of (mean z of those that look to the right - mean z of those that look to the left), (z_dim,)."""
    return (z[list(exemplars.right)].mean(dim=0) - z[list(exemplars.left)].mean(dim=0)) / 2


def turned(generator: FrozenGenerator, z: torch.Tensor, vector: torch.Tensor, coefficients: np.ndarray) -> np.ndarray:
    """(N, z_dim), (z_dim,), (n,) -> uint8 (N, n, H, W, 3): each sample with so much of the vector, not clipped."""
    steps = torch.from_numpy(coefficients).to(z.dtype)[:, None] * vector
    images = generator.images((z[:, None] + steps).flatten(0, 1))
    return images.reshape(len(z), len(coefficients), *sides(generator.architecture))


def turn(
    generator: FrozenGenerator,
    config: TurnVector,
    *,
    n_deck: int,
    attributes: Attributes | None,
    annotated: Exemplars | None,
) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """Figure 8 and its numbers: the vector from annotated exemplars, or else from the chooser's; yaw by the judge.

    Returns
    -------
    ``images`` uint8 (5, n_coefficients, H, W, 3) and ``coefficients`` float64 (n_coefficients,), both of length 0 if
    there are no exemplars; the table of :func:`measure`, no rows without the networks.

    Raises
    ------
    InputError
        As :func:`chosen_exemplars`.
    """
    z = generator.deck(n_deck)
    if annotated is not None and annotated.turn is not None:
        exemplars = [annotated.turn]
    elif attributes is not None:
        yaw = attributes.chooser(generator.images(z)).yaw
        exemplars = [chosen_exemplars(yaw, config, draw) for draw in range(config.n_draws)]
    else:
        images = np.empty((0, config.n_coefficients, *sides(generator.architecture)), dtype=np.uint8)
        return {"images": images, "coefficients": np.empty(0)}, no_measurements()
    coefficients, shown, tables = np.linspace(-1, 1, config.n_coefficients), [], [no_measurements()]
    for draw, sides_of in enumerate(exemplars):
        faces = generator.draw_z(max(SHOWN, config.n_judged), config.seed, "turned faces", draw)
        images = turned(generator, faces, turn_vector(z, sides_of), coefficients)
        shown.append(images[:SHOWN])
        if attributes is None:
            break  # nothing is measured of further draws
        tables.append(measure(images[: config.n_judged], coefficients, attributes).assign(draw=draw))
    table = pd.concat(tables, ignore_index=True)[list(COLUMNS)].astype(COLUMNS)
    return {"images": shown[0], "coefficients": coefficients}, table


def measure(images: np.ndarray, coefficients: np.ndarray, attributes: Attributes) -> pd.DataFrame:
    """What the judge sees in turned faces, uint8 (N, n, H, W, 3), of one draw.

    Returns
    -------
    sample, coefficient, yaw (degrees, positive to the right), and the probability of each of the other attributes.
    """
    n_samples, n = images.shape[:2]
    seen = attributes.judge(images.reshape(-1, *images.shape[2:]))
    sample = np.repeat(np.arange(n_samples), n)
    table = pd.DataFrame({"sample": sample, "coefficient": np.tile(coefficients, n_samples), "yaw": seen.yaw})
    return table.assign(**dict(zip(OTHERS, seen.probability.T, strict=True)))


def no_measurements() -> pd.DataFrame:
    """The table of :func:`measure` where nothing could be measured."""
    return pd.DataFrame({name: pd.Series(dtype=dtype) for name, dtype in COLUMNS.items()})
