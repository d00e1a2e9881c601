"""Vector arithmetic on faces (DCGAN, section 6.3.2, Figure 7): smiling woman - neutral woman + neutral man, measured.

The paper adds and subtracts the mean z of three exemplars of a concept and shows what comes out. Here two attributes
make a problem: A has a and not b, B has neither, C has b and not a; A - B + C should have both. A network that knows
attributes finds exemplars among generated faces, another one looks at what comes out, for as many problems as are asked
for, with one exemplar and with several.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from annotated_types import Ge, Gt, Interval, MinLen

from pipeline.core.params import section
from pipeline.core.seeding import numpy_stream
from pipeline.evaluation.intervals import wilson
from pipeline.internals.annotations import Exemplars
from pipeline.internals.face_attributes import BINARY, Attributes, Seen
from pipeline.internals.frozen import FrozenGenerator
from pipeline.models.build import sides

SHOWN = 3  # exemplars of a concept in Figure 7
NEIGHBOURS = 9  # the result and eight points about it
CENTRE = 4  # of the 3 x 3 pictures
COLUMNS = {
    "space": "str",
    **dict.fromkeys(("n_exemplars", "n_problems", "n_right"), "int64"),
    **dict.fromkeys(("share", "low", "high"), "float64"),
    **dict.fromkeys(("n_gained", "n_lost", "n_kinds", "n_kinds_left_out"), "int64"),
}


@section
class Arithmetic:
    """``internals.arithmetic`` in params.yaml.

    Attributes
    ----------
    seed : draws the problems, their exemplars and the noise about a shown result
    n_deck : generated faces among which exemplars are found; the turn's exemplars, too, and those that people name
    n_exemplars : means over so many; the problems are the same for all, and the first few of the same exemplars
    noise : half the width of the uniform noise about a shown result, per coordinate of z
    confidence : the chooser's, for either attribute, in an exemplar
    """

    seed: int
    n_deck: Annotated[int, Ge(1)]
    n_exemplars: Annotated[list[Annotated[int, Ge(1)]], MinLen(1)]
    n_problems: Annotated[int, Ge(1)]
    noise: Annotated[float, Gt(0)]
    confidence: Annotated[float, Interval(ge=0.5, lt=1)]


# ---- problems -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Which attributes a and b are (places in ``BINARY``), and whether to have one means that it is on or off."""

    a: int
    b: int
    a_on: bool
    b_on: bool

    def concepts(self) -> tuple[tuple[bool, bool], ...]:
        """Of A, B and C: whether a and b are on."""
        return (self.a_on, not self.b_on), (not self.a_on, not self.b_on), (not self.a_on, self.b_on)

    def names(self) -> list[str]:
        """Of A, B and C, such as ``smile, no light hair``."""
        return [f"{_name(self.a, a_on)}, {_name(self.b, b_on)}" for a_on, b_on in self.concepts()]

    def found(self, seen: Seen, confidence: float = 0.5) -> np.ndarray:
        """bool (N,): images that have both a and b."""
        return self._shows(seen, self.a_on, self.b_on, confidence)

    def exemplars(self, seen: Seen, confidence: float) -> list[np.ndarray]:
        """Of A, B and C: indices of the images that show it with confidence, ascending."""
        return [np.flatnonzero(self._shows(seen, a_on, b_on, confidence)) for a_on, b_on in self.concepts()]

    def _shows(self, seen: Seen, a_on: bool, b_on: bool, confidence: float) -> np.ndarray:
        a, b = ((self.a, a_on), (self.b, b_on))
        return seen.shows(a[0], on=a[1], confidence=confidence) & seen.shows(b[0], on=b[1], confidence=confidence)


def _name(attribute: int, on: bool) -> str:
    return BINARY[attribute] if on else f"no {BINARY[attribute]}"


KINDS = tuple(
    Kind(a=a, b=b, a_on=a_on, b_on=b_on)
    for a, b in itertools.permutations(range(len(BINARY)), 2)
    for a_on, b_on in itertools.product((True, False), repeat=2)
)

_SMILE, _GLASSES, _HAIR = (BINARY.index(name) for name in ("smile", "glasses", "light hair"))
# Figure 7 has smile and glasses on women and men; hair takes the place of these. The second is for a generator that has
# too few faces of the first.
PICTURED = (
    tuple(Kind(a=_SMILE, b=_HAIR, a_on=True, b_on=on) for on in (True, False)),
    tuple(Kind(a=_GLASSES, b=_HAIR, a_on=True, b_on=on) for on in (True, False)),
)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A kind, and indices of the deck: int64 (3, n), n exemplars of A, B and C."""

    kind: Kind
    exemplars: np.ndarray


def usable_kinds(seen: Seen, confidence: float, n: int) -> list[Kind]:
    """The kinds of problems for which the deck has n exemplars of A, B and C."""
    return [kind for kind in KINDS if min(map(len, kind.exemplars(seen, confidence))) >= n]


def draw_problems(seen: Seen, config: Arithmetic) -> list[Problem]:
    """Problems of all usable kinds in turn, each with as many exemplars as the largest mean takes.

    Every kind gets as many problems as any other, up to one; which gets one more is drawn. None if no kind is usable.
    """
    n = max(config.n_exemplars)
    kinds = usable_kinds(seen, config.confidence, n)
    order = numpy_stream(config.seed, "kinds of problems").permutation(len(kinds))
    problems = []
    for number in range(config.n_problems if kinds else 0):
        kind = kinds[order[number % len(kinds)]]
        drawn = numpy_stream(config.seed, "exemplars", number)
        exemplars = [drawn.permutation(found)[:n] for found in kind.exemplars(seen, config.confidence)]
        problems.append(Problem(kind=kind, exemplars=np.stack(exemplars)))
    return problems


# ---- arithmetic -----------------------------------------------------------------------------------------------------


def combined(vectors: torch.Tensor, exemplars: np.ndarray) -> torch.Tensor:
    """Mean over A - mean over B + mean over C, not clipped.

    Parameters
    ----------
    vectors : (N, ...), of the deck
    exemplars : int64 (n_problems, 3, n)

    Returns
    -------
    (n_problems, ...)
    """
    a, b, c = means(vectors, exemplars).unbind(dim=1)
    return a - b + c


def means(vectors: torch.Tensor, exemplars: np.ndarray) -> torch.Tensor:
    """(N, ...) of the deck, int64 (n_problems, 3, n) -> (n_problems, 3, ...), of A, B and C; of uint8 in float64."""
    chosen = vectors[torch.from_numpy(exemplars)]
    return chosen.mean(dim=2, dtype=None if chosen.is_floating_point() else torch.float64)


def to_pixels(values: torch.Tensor) -> np.ndarray:
    """Any numbers -> uint8, clipped to 0..255 and rounded."""
    return values.round().clamp(0, 255).to(torch.uint8).numpy()


def measure(
    generator: FrozenGenerator, z: torch.Tensor, images: np.ndarray, attributes: Attributes, config: Arithmetic
) -> pd.DataFrame:
    """The share of problems whose result has both attributes, as the judge sees it.

    Parameters
    ----------
    z, images : of the deck, float32 (n_deck, z_dim) and uint8 (n_deck, 64, 64, 3)

    Returns
    -------
    One row a (space, n_exemplars): n_problems, n_right, share and its 95 % interval by Wilson (low, high; problems
    share exemplars and are counted as if they were independent); n_gained and n_lost, the problems that are right here
    and not with the fewest exemplars of the same space, and the reverse; n_kinds of problems there are, and
    n_kinds_left_out of them because the deck has too few exemplars. space: ``z``; ``pixels``: the same with images in
    place of z; ``start``: C itself, G(mean z), which has b and should not have a; ``chance``: a random face of the deck
    (n_exemplars = 0). No rows if no kind is left.
    """
    chosen = attributes.chooser(images)
    problems = draw_problems(chosen, config)
    if not problems:
        return no_measurements()
    n_used = len(usable_kinds(chosen, config.confidence, max(config.n_exemplars)))
    every = np.stack([problem.exemplars for problem in problems])
    pixels = torch.from_numpy(images)

    def pixel_results(exemplars: np.ndarray) -> np.ndarray:
        """A block at a time: the exemplars of all problems together would not fit."""
        blocks = np.array_split(exemplars, max(1, len(exemplars) // 50))
        return np.concatenate([to_pixels(combined(pixels, block)) for block in blocks])

    results: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "z": lambda exemplars: generator.images(combined(z, exemplars)),
        "pixels": pixel_results,
        "start": lambda exemplars: generator.images(means(z, exemplars)[:, 2]),
    }
    right = {
        (space, n): _right(problems, result(every[:, :, :n]), attributes)
        for space, result in results.items()
        for n in sorted(set(config.n_exemplars))
    }
    random = numpy_stream(config.seed, "random faces").integers(len(images), size=len(problems))
    right["chance", 0] = _right(problems, images[random], attributes)
    rows = []
    for (space, n), here in right.items():
        fewest = right[space, min(number for same, number in right if same == space)]
        n_right = int(here.sum())
        share = (n_right / len(problems), *wilson(n_right, len(problems)))
        changed = (int((here & ~fewest).sum()), int((fewest & ~here).sum()))
        rows.append([space, n, len(problems), n_right, *share, *changed, len(KINDS), len(KINDS) - n_used])
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def _right(problems: list[Problem], results: np.ndarray, attributes: Attributes) -> np.ndarray:
    """bool (n_problems,): whether the judge sees both attributes in the result."""
    seen = attributes.judge(results)
    return np.array([problem.kind.found(seen)[number] for number, problem in enumerate(problems)])


def no_measurements() -> pd.DataFrame:
    """The table of :func:`measure` where nothing could be measured."""
    return pd.DataFrame({name: pd.Series(dtype=dtype) for name, dtype in COLUMNS.items()})


# ---- pictures -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Pictured:
    """A problem to be shown: names of A, B and C, and int64 (3, 3) indices of the deck."""

    names: list[str]
    exemplars: np.ndarray


def annotated_problems(exemplars: Exemplars) -> list[Pictured]:
    """The problems that a person asked for, with the first exemplars that he or she named."""
    return [
        Pictured(names=list(names), exemplars=np.array([exemplars.concepts[name][:SHOWN] for name in names]))
        for names in exemplars.problems
    ]


def chosen_problems(seen: Seen, config: Arithmetic) -> list[Pictured]:
    """A smile and glasses, each on other hair, with exemplars drawn by seed; less if the deck has too few faces."""
    problems = []
    for number, kinds in enumerate(PICTURED):
        groups = [(kind, kind.exemplars(seen, config.confidence)) for kind in kinds]
        usable = [(kind, found) for kind, found in groups if min(map(len, found)) >= SHOWN]
        for kind, found in usable[:1]:
            drawn = numpy_stream(config.seed, "shown exemplars", number)
            exemplars = np.stack([drawn.permutation(indices)[:SHOWN] for indices in found])
            problems.append(Pictured(names=kind.names(), exemplars=exemplars))
    return problems


def pictures(
    generator: FrozenGenerator, z: torch.Tensor, images: np.ndarray, problems: list[Pictured], config: Arithmetic
) -> dict[str, np.ndarray]:
    """What Figure 7 shows, for each problem.

    Returns
    -------
    concepts : str (n, 3), of A, B and C
    exemplars : uint8 (n, 3, 3, 64, 64, 3), (problem, concept, exemplar)
    means : uint8 (n, 3, 64, 64, 3), G(mean z)
    results : uint8 (n, 9, 64, 64, 3), G(Y), number 4, among G(Y + noise)
    pixel_means, pixel_results : uint8 (n, 3, 64, 64, 3) and (n, 64, 64, 3), the same with images in place of z
    """
    n, side = len(problems), sides(generator.architecture)
    exemplars = np.array([problem.exemplars for problem in problems], dtype=np.int64).reshape(n, 3, SHOWN)
    y = combined(z, exemplars)
    noise = numpy_stream(config.seed, "noise about results").uniform(
        -config.noise, config.noise, size=(n, NEIGHBOURS, z.shape[1])
    )
    noise[:, CENTRE] = 0
    around = y[:, None] + torch.from_numpy(noise).to(z.dtype)
    pixels = torch.from_numpy(images)
    return {
        "concepts": np.array([problem.names for problem in problems], dtype=np.str_).reshape(n, 3),
        "exemplars": images[exemplars],
        "means": generator.images(means(z, exemplars).flatten(0, 1)).reshape(n, 3, *side),
        "results": generator.images(around.flatten(0, 1)).reshape(n, NEIGHBOURS, *side),
        "pixel_means": to_pixels(means(pixels, exemplars)),
        "pixel_results": to_pixels(combined(pixels, exemplars)),
    }


def arithmetic(
    generator: FrozenGenerator,
    config: Arithmetic,
    *,
    attributes: Attributes | None,
    annotated: Exemplars | None,
) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """Figure 7 and its numbers: pictures by the annotated exemplars, or else by the chooser's; numbers by the judge.

    Without either there is nothing to show, without the networks nothing to measure.
    """
    z = generator.deck(config.n_deck)
    images = generator.images(z)
    problems = []
    if annotated is not None:
        problems = annotated_problems(annotated)
    elif attributes is not None:
        problems = chosen_problems(attributes.chooser(images), config)
    table = no_measurements() if attributes is None else measure(generator, z, images, attributes, config)
    return pictures(generator, z, images, problems, config), table
