"""The page on which people draw boxes and pick exemplars: one HTML file with its pictures, which loads nothing else."""

import base64
import html
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from pipeline.core import compute, params
from pipeline.core.errors import InputError
from pipeline.core.files import write_text
from pipeline.internals.annotations import (
    CONCEPT_EXEMPLARS,
    PSEUDONYM,
    TURN_EXEMPLARS,
    Boxes,
    Exemplars,
    OtherDeckError,
    generator_sha256,
    read_boxes,
    read_exemplars,
)
from pipeline.internals.frozen import FrozenGenerator, Reference, frozen_generator

MOST_FACES = 400  # on one page; of a larger deck the first ones, and those that are exemplars already
TEMPLATE = Path(__file__).with_suffix(".html")
SCRIPT = Path(__file__).with_suffix(".js")

Kind = Literal["windows", "faces"]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is annotated on the samples of which model, and what the page says about it."""

    model: str
    deck_size: str  # its address in the params
    file_name: str
    title: str
    task: str
    keys: str


SUBJECTS: dict[Kind, Subject] = {
    "windows": Subject(
        model="dcgan_lsun",
        deck_size="internals.forget_windows.n_labelled",
        file_name="boxes.json",
        title="Boxes around windows",
        task=(
            "Look at every sample and drag a box around each window; a sample without a box counts as one without a "
            "window. Then enter a pseudonym, download the file and put it at {place}."
        ),
        keys=(
            "Keys: arrows go to another sample; Enter adds a box, Space selects the next one, and arrows then move it "
            "(with Shift: its lower right corner); Delete removes it, Escape lets it go. A click on a box selects it."
        ),
    ),
    "faces": Subject(
        model="dcgan_faces",
        deck_size="internals.arithmetic.n_deck",
        file_name="exemplars.json",
        title="Exemplars of concepts",
        task=(
            "Choose a concept and click the faces that show it, three or more of each, and for the turn four or more "
            "that look to the left and to the right edge of their picture. Then remove the concepts and problems that "
            "you do not need, enter a pseudonym, download the file and put it at {place}."
        ),
        keys="Keys: 1 to 9 choose what a click adds to; arrows go to another face, Enter adds it or removes it.",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Deck:
    """The samples that are shown.

    Attributes
    ----------
    images : uint8 (n, H, W, 3)
    shown : the index of each in the deck
    n_images : size of the deck
    network : sha256 of the generator that drew it
    """

    images: np.ndarray
    shown: Sequence[int]
    n_images: int
    network: str


@dataclass(frozen=True, kw_only=True)
class Written:
    """Where a page is, where its file belongs, and why earlier annotations were left out, if they were."""

    page: Path
    place: Path
    note: str


def write_page(kind: Kind, profile: str, params_file: Path) -> Written:
    """Draw the deck of a profile and write ``data/PROFILE/annotate/KIND.html``; run in the project's root.

    Raises
    ------
    InputError
        If the params lack a section, the model is missing, or the earlier annotations are damaged.
    """
    subject = SUBJECTS[kind]
    machine = params.load(params_file, compute.Compute, "compute")
    reference = params.load(params_file, Reference, "internals.reference")
    n_images = _deck_size(params_file, subject.deck_size)
    compute.set_up(machine)
    generator = frozen_generator(Path("data") / profile / "models" / subject.model, reference, machine)
    place = Path("annotations") / profile / subject.file_name
    annotated, note = _annotated(kind, place, generator, n_images)
    shown = range(n_images) if kind == "windows" else faces_shown(n_images, annotated)
    z = generator.deck(n_images)
    deck = Deck(
        images=generator.images(z[list(shown)]), shown=shown, n_images=n_images, network=generator_sha256(generator)
    )
    out = Path("data") / profile / "annotate" / f"{kind}.html"
    write_text(out, page(kind, deck, place=place, annotated=annotated, note=note))
    return Written(page=out, place=place, note=note)


def faces_shown(n_images: int, annotated: Boxes | Exemplars | None) -> list[int]:
    """The first faces of a deck, and those that were picked before; ascending."""
    picked: set[int] = set()
    if isinstance(annotated, Exemplars):
        picked.update(*annotated.concepts.values())
        picked.update(*((annotated.turn.left, annotated.turn.right) if annotated.turn else ()))
    return sorted({*range(min(n_images, MOST_FACES)), *picked})


def page(kind: Kind, deck: Deck, *, place: Path, annotated: Boxes | Exemplars | None, note: str = "") -> str:
    """The HTML.

    Parameters
    ----------
    place : where the downloaded file belongs
    annotated : what the page begins with
    note : shown above the samples
    """
    subject = SUBJECTS[kind]
    _, height, width, _ = deck.images.shape
    data = {
        "kind": kind,
        "task": subject.task.format(place=place.as_posix()),
        "keys": subject.keys,
        "note": note,
        "place": place.as_posix(),
        "file_name": subject.file_name,
        "network": deck.network,
        "n_images": deck.n_images,
        "width": width,
        "height": height,
        "rules": {
            "pseudonym": PSEUDONYM,
            "concept_exemplars": CONCEPT_EXEMPLARS,
            "turn_exemplars": TURN_EXEMPLARS,
        },
        "shown": list(deck.shown),
        "pictures": [_data_uri(image) for image in deck.images],
        "annotated": _plain(annotated),
    }
    parts = {
        "title": html.escape(subject.title),
        "data": _script_json(data),
        "script": SCRIPT.read_text(encoding="utf-8"),
    }
    # In one pass: what is put in is not searched again.
    return re.sub("@(title|data|script)@", lambda found: parts[found[1]], TEMPLATE.read_text(encoding="utf-8"))


def _script_json(data: Any) -> str:
    """JSON that cannot end the script element that it stands in: HTML knows no other escape there."""
    return json.dumps(data).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _data_uri(image: np.ndarray) -> str:
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _plain(annotated: Boxes | Exemplars | None) -> dict[str, Any] | None:
    """As the script takes it: what is in the file, without what the deck says."""
    if annotated is None:
        return None
    if isinstance(annotated, Boxes):
        boxes = {str(index): corners.tolist() for index, corners in annotated.boxes.items()}
        return {"annotator": annotated.annotator, "boxes": boxes}
    turn = annotated.turn
    return {
        "annotator": annotated.annotator,
        "concepts": annotated.concepts,
        "problems": annotated.problems,
        "turn": None if turn is None else {"left": turn.left, "right": turn.right},
    }


def _annotated(
    kind: Kind, place: Path, generator: FrozenGenerator, n_images: int
) -> tuple[Boxes | Exemplars | None, str]:
    """What was annotated before; nothing, and a note, if that was on other samples."""
    read = read_boxes if kind == "windows" else read_exemplars
    try:
        return read(place, generator=generator, n_images=n_images), ""
    except OtherDeckError:
        return None, f"What {place.as_posix()} holds was annotated on other samples, so this page begins empty."


def _deck_size(params_file: Path, address: str) -> int:
    """One number of a section that belongs to a stage."""
    value: Any = params.read(params_file)
    for key in address.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        message = f"{params_file}, {address}: expected the number of samples to annotate, at least 1, found {value!r}"
        raise InputError(message)
    return value
