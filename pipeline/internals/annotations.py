"""What people marked on generated images: windows (``boxes.json``), exemplars of concepts (``exemplars.json``).

Both are made with ``gan-tables annotate`` and committed; ``{}`` says that nobody has. An index is a place in the deck,
the samples of z from the stream (``internals.reference.seed``, "deck"); another network would draw other samples there,
so a file holds for the one whose sha256 it names.
"""

import hashlib
import json
import re
import reprlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from annotated_types import Ge, Len
from pydantic import StringConstraints, TypeAdapter, ValidationError

from pipeline.core.errors import InputError
from pipeline.core.params import section
from pipeline.internals.frozen import FrozenGenerator
from pipeline.models.build import sides

CONCEPT_EXEMPLARS = 3  # at least so many a concept: the paper found single ones unstable (DCGAN, section 6.3.2)
TURN_EXEMPLARS = 4  # at least so many a side: "four averaged samples"
PSEUDONYM = "[A-Za-z0-9_-]{1,20}"

File = TypeVar("File")


class OtherDeckError(InputError):
    """The annotations are of other samples: another network's, or a deck of another size."""


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """Where windows are in the deck.

    Attributes
    ----------
    boxes : index -> float64 (k, 4), k >= 1: x1, y1, x2, y2, edges in pixels; an image without an entry has no window
    n_images : size of the deck that was looked through
    annotator : a pseudonym
    """

    boxes: dict[int, np.ndarray]
    n_images: int
    annotator: str


@dataclass(frozen=True, kw_only=True)
class Turn:
    """Indices of faces that look to the left and to the right of the picture."""

    left: tuple[int, ...]
    right: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Exemplars:
    """Which samples of the deck show a concept.

    Attributes
    ----------
    concepts : name -> indices, in the order in which they were picked
    problems : names of A, B and C of A - B + C; may be empty
    turn : None if nobody picked any
    n_images : size of the deck
    annotator : a pseudonym
    """

    concepts: dict[str, tuple[int, ...]]
    problems: tuple[tuple[str, str, str], ...]
    turn: Turn | None
    n_images: int
    annotator: str


def generator_sha256(generator: FrozenGenerator) -> str:
    """The sha256 of all that decides the deck: architecture, weights with their names and shapes, reference batch.

    Not of batch norm's statistics, which follow from them, but whose last bits are the machine's.
    """
    decides = {"architecture": asdict(generator.architecture), "reference": asdict(generator.reference)}
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode())
    for name, tensor in sorted(generator.rows.state_dict().items()):
        values = tensor.detach().cpu().contiguous().numpy()
        digest.update(f"{name} {values.dtype} {values.shape}\n".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def read_boxes(path: Path, *, generator: FrozenGenerator, n_images: int) -> Boxes | None:
    """The boxes of a file, or None if it is ``{}``.

    Parameters
    ----------
    n_images : size of the deck now

    Raises
    ------
    InputError
        If the file is missing, not JSON, has another key or type, no box, or a box that is not inside its image.
    OtherDeckError
        If the boxes were drawn on other samples.
    """
    file = _read(path, _BoxesFile)
    if file is None:
        return None
    _check_head(path, file, generator=generator, n_images=n_images, what="windows")
    height, width, _ = sides(generator.architecture)
    boxes = {}
    for key, corners in file.boxes.items():
        index = _index(path, "boxes", key, n_images)
        for number, box in enumerate(corners):
            _check_box(path, f"boxes.{key}.{number}", box, width=width, height=height)
        if corners:
            boxes[index] = np.array(corners, dtype=np.float64)
    if not boxes:
        message = f"{path}, boxes: found no box, expected at least one; draw some, or write {{}} for nothing annotated"
        raise InputError(message)
    return Boxes(boxes=boxes, n_images=file.n_images, annotator=file.annotator)


def read_exemplars(path: Path, *, generator: FrozenGenerator, n_images: int) -> Exemplars | None:
    """The exemplars of a file, or None if it is ``{}``.

    Parameters
    ----------
    n_images : size of the deck now

    Raises
    ------
    InputError
        If the file is missing, not JSON, has another key or type, an index does not exist or comes twice, a concept has
        too few, or a problem names an unknown one.
    OtherDeckError
        If the exemplars are other samples.
    """
    file = _read(path, _ExemplarsFile)
    if file is None:
        return None
    _check_head(path, file, generator=generator, n_images=n_images, what="faces")
    for concept, indices in file.concepts.items():
        _check_exemplars(path, f"concepts.{concept}", indices, n_images, at_least=CONCEPT_EXEMPLARS)
    for number, problem in enumerate(file.problems):
        _check_problem(path, f"problems.{number}", problem, file.concepts)
    if not file.concepts and file.turn is None:
        message = f"{path}, concepts: found none, and no turn; pick exemplars, or write {{}} for nothing annotated"
        raise InputError(message)
    return Exemplars(
        concepts={concept: tuple(indices) for concept, indices in file.concepts.items()},
        problems=tuple((a, b, c) for a, b, c in file.problems),
        turn=None if file.turn is None else _turn(path, file.turn, n_images),
        n_images=file.n_images,
        annotator=file.annotator,
    )


# ---- the files ----

_Name = Annotated[str, StringConstraints(min_length=1, max_length=60)]
_Corners = Annotated[list[float], Len(4, 4)]
_Problem = Annotated[list[str], Len(3, 3)]


@section
class _BoxesFile:
    network: str
    annotator: str
    n_images: Annotated[int, Ge(1)]
    boxes: dict[str, list[_Corners]]


@section
class _TurnFile:
    left: list[int]
    right: list[int]


@section
class _ExemplarsFile:
    network: str
    annotator: str
    n_images: Annotated[int, Ge(1)]
    concepts: dict[_Name, list[int]]
    problems: list[_Problem]
    turn: _TurnFile | None


def _read(path: Path, kind: type[File]) -> File | None:
    """The file's content, its shape and types checked; None if it is ``{}``."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unique)
    except FileNotFoundError as error:
        message = f"{path}: missing; write {{}} into it if nothing is annotated"
        raise InputError(message) from error
    except OSError as error:
        message = f"{path}: cannot be read ({error.strerror}); a file of annotations is expected there"
        raise InputError(message) from error
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError, too
        message = f"{path}: not valid JSON ({error}); download it again from the annotating page"
        raise InputError(message) from error
    if content == {}:
        return None
    try:
        # As JSON, because strict Python mode would refuse a dict where a section is expected.
        return TypeAdapter(kind).validate_json(json.dumps(content))
    except ValidationError as error:
        message = f"{path}, {_say(error.errors(include_url=False)[0], kind)}"
    raise InputError(message)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            message = f"key '{key}' comes twice"
            raise ValueError(message)
    return dict(pairs)


def _say(problem: Any, kind: type) -> str:
    *outer, key = [str(part) for part in problem["loc"] if part != "[key]"] or ["the file"]
    place = ".".join([*outer, key])
    if problem["type"] in ("unexpected_keyword_argument", "missing"):
        fault = "missing" if problem["type"] == "missing" else "unknown"
        fields = TypeAdapter(_TurnFile if outer == ["turn"] else kind).json_schema()["properties"]
        where = f"{'.'.join(outer)}: " if outer else ""
        return f"{where}{fault} key '{key}'; expected {', '.join(sorted(fields))}"
    return f"{place}: {problem['msg'].replace('Input', 'value')}, found {reprlib.repr(problem['input'])}"


def _check_head(
    path: Path, file: _BoxesFile | _ExemplarsFile, *, generator: FrozenGenerator, n_images: int, what: str
) -> None:
    """Whose annotations these are, and whether they are of the deck as it is now."""
    remedy = f"annotate again (gan-tables annotate {what} PROFILE), or write {{}} for nothing annotated"
    if not re.fullmatch(PSEUDONYM, file.annotator):
        message = f"{path}, annotator: found {file.annotator!r}, expected a pseudonym of at most 20 letters A-Z a-z, "
        message += "digits, - and _, such as a1"
        raise InputError(message)
    if file.network != (now := generator_sha256(generator)):
        message = (
            f"{path}, network: found {file.network[:12]}, but the generator is {now[:12]}: its samples are no longer "
            f"those that were annotated; {remedy}"
        )
        raise OtherDeckError(message)
    if file.n_images != n_images:
        message = f"{path}, n_images: found {file.n_images}, but the params ask for a deck of {n_images}; {remedy}"
        raise OtherDeckError(message)


def _index(path: Path, where: str, key: str, n_images: int) -> int:
    # int() refuses thousands of digits
    if not (key.isdecimal() and len(key) <= len(str(n_images)) and str(int(key)) == key and int(key) < n_images):
        message = f"{path}, {where}: found index {key!r}, expected one of the deck's, 0 to {n_images - 1}"
        raise InputError(message)
    return int(key)


def _check_box(path: Path, where: str, box: list[float], *, width: int, height: int) -> None:
    x1, y1, x2, y2 = box
    if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
        message = f"{path}, {where}: found the box {box}, expected 0 <= x1 < x2 <= {width} and "
        message += f"0 <= y1 < y2 <= {height}"
        raise InputError(message)


def _check_exemplars(path: Path, where: str, indices: list[int], n_images: int, *, at_least: int) -> None:
    for index in indices:
        if not 0 <= index < n_images:
            message = f"{path}, {where}: found index {index}, expected one of the deck's, 0 to {n_images - 1}"
            raise InputError(message)
    if len(set(indices)) < len(indices):
        message = f"{path}, {where}: found {indices}, expected each index once"
        raise InputError(message)
    if len(indices) < at_least:
        message = f"{path}, {where}: found {len(indices)} exemplars, expected at least {at_least}; pick more, or none"
        raise InputError(message)


def _check_problem(path: Path, where: str, problem: list[str], concepts: dict[str, list[int]]) -> None:
    for concept in problem:
        if concept not in concepts:
            message = f"{path}, {where}: unknown concept {concept!r}; expected {', '.join(concepts) or 'none'}"
            raise InputError(message)
    if len(set(problem)) < 3:
        message = f"{path}, {where}: found {problem}, expected three different concepts"
        raise InputError(message)


def _turn(path: Path, file: _TurnFile, n_images: int) -> Turn:
    _check_exemplars(path, "turn.left", file.left, n_images, at_least=TURN_EXEMPLARS)
    _check_exemplars(path, "turn.right", file.right, n_images, at_least=TURN_EXEMPLARS)
    if both := sorted({*file.left} & {*file.right}):
        message = f"{path}, turn: index {both[0]} is in left and in right; expected each face in one of them"
        raise InputError(message)
    return Turn(left=tuple(file.left), right=tuple(file.right))
