"""The page on which people draw boxes and pick exemplars: one HTML file with its pictures, which loads nothing else.

Opened from the disk it downloads the annotations; served by ``pipeline.turing.boxes`` it can also save them.
"""

import base64
import hashlib
import html
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
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
from pipeline.models.store import RUN_FILE

MOST_FACES = 400  # on one page; of a larger deck the first ones, and those that are exemplars already
TEMPLATE = Path(__file__).with_suffix(".html")
SCRIPT = Path(__file__).with_suffix(".js")
SAVE_SCRIPT = Path(__file__).with_name("annotation_page_save.js")  # only in the page that a server sends

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
            "window. Then enter a pseudonym, {end}."
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
            "you do not need, enter a pseudonym, {end}."
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
class Saving:
    """How a page that a server sent gives the annotations back.

    Attributes
    ----------
    address : path on the server that takes them
    token : goes back with them
    base : which state of the file the page began with
    """

    address: str
    token: str
    base: str


@dataclass(frozen=True, kw_only=True)
class Desk:
    """What one profile's annotators work on: the deck, drawn, and the file that they fill."""

    kind: Kind
    place: Path
    generator: FrozenGenerator
    n_images: int

    def annotated(self) -> tuple[Boxes | Exemplars | None, str]:
        """What was annotated before; nothing, and a note, if that was on other samples."""
        read = read_boxes if self.kind == "windows" else read_exemplars
        try:
            return read(self.place, generator=self.generator, n_images=self.n_images), ""
        except OtherDeckError:
            return (
                None,
                f"What {self.place.as_posix()} holds was annotated on other samples, so this page begins empty.",
            )

    def deck(self, annotated: Boxes | Exemplars | None) -> Deck:
        """The samples to show: all for boxes; of a large deck of faces the first, and those picked before."""
        shown = range(self.n_images) if self.kind == "windows" else faces_shown(self.n_images, annotated)
        z = self.generator.deck(self.n_images)
        return Deck(
            images=self.generator.images(z[list(shown)]),
            shown=shown,
            n_images=self.n_images,
            network=generator_sha256(self.generator),
        )


@dataclass(frozen=True, kw_only=True)
class Written:
    """Where a page is, where its file belongs, and why earlier annotations were left out, if they were."""

    page: Path
    place: Path
    note: str


def open_desk(kind: Kind, profile: str, params_file: Path) -> Desk:
    """Load the model of a profile; run in the project's root.

    Raises
    ------
    InputError
        If the params lack a section, or the model is missing.
    """
    subject = SUBJECTS[kind]
    machine = params.load(params_file, compute.Compute, "compute")
    reference = params.load(params_file, Reference, "internals.reference")
    n_images = _deck_size(params_file, subject.deck_size)
    compute.set_up(machine)
    model = Path("data") / profile / "models" / subject.model
    if not (model / RUN_FILE).is_file():
        graph = "" if profile == "embedded" else f"profiles/{profile}/dvc.yaml:"
        message = f"{model}: not trained here; run dvc --wait-for-lock repro {graph}train@{subject.model}"
        raise InputError(message)
    generator = frozen_generator(model, reference, machine)
    place = Path("annotations") / profile / subject.file_name
    return Desk(kind=kind, place=place, generator=generator, n_images=n_images)


def write_page(kind: Kind, profile: str, params_file: Path) -> Written:
    """Draw the deck of a profile and write ``data/PROFILE/annotate/KIND.html``; run in the project's root.

    Raises
    ------
    InputError
        If the params lack a section, the model is missing, or the earlier annotations are damaged.
    """
    desk = open_desk(kind, profile, params_file)
    annotated, note = desk.annotated()
    out = Path("data") / profile / "annotate" / f"{kind}.html"
    write_text(out, page(kind, desk.deck(annotated), place=desk.place, annotated=annotated, note=note))
    return Written(page=out, place=desk.place, note=note)


def faces_shown(n_images: int, annotated: Boxes | Exemplars | None) -> list[int]:
    """The first faces of a deck, and those that were picked before; ascending."""
    picked: set[int] = set()
    if isinstance(annotated, Exemplars):
        picked.update(*annotated.concepts.values())
        picked.update(*((annotated.turn.left, annotated.turn.right) if annotated.turn else ()))
    return sorted({*range(min(n_images, MOST_FACES)), *picked})


def page(
    kind: Kind,
    deck: Deck,
    *,
    place: Path,
    annotated: Boxes | Exemplars | None,
    note: str = "",
    saving: Saving | None = None,
) -> str:
    """The HTML.

    Parameters
    ----------
    place : where the downloaded file belongs
    annotated : what the page begins with
    note : shown above the samples
    saving : None in a page that is opened from the disk
    """
    subject = SUBJECTS[kind]
    _, height, width, _ = deck.images.shape
    file = place.as_posix()
    data = {
        "kind": kind,
        "task": subject.task.format(end=f"and save to {file}" if saving else f"download the file and put it at {file}"),
        "keys": subject.keys,
        "note": note,
        "place": file,
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
        "saving": None if saving is None else asdict(saving),
    }
    parts = {
        "title": html.escape(subject.title),
        "policy": content_policy(can_save=saving is not None),
        "data": _script_json(data),
        "script": _script(can_save=saving is not None),
    }
    # In one pass: what is put in is not searched again.
    return re.sub("@(title|policy|data|script)@", lambda found: parts[found[1]], TEMPLATE.read_text(encoding="utf-8"))


def content_policy(*, can_save: bool) -> str:
    """What a browser may load for the page: nothing but what is in it, and of scripts and styles only ours."""
    style = re.findall("<style>(.*?)</style>", TEMPLATE.read_text(encoding="utf-8"), re.DOTALL)[0]
    script = f"\n{_script(can_save=can_save)}\n"  # as the template has it between the tags
    policy = f"default-src 'none'; img-src data:; style-src {_source(style)}; script-src {_source(script)}"
    return f"{policy}; connect-src 'self'" if can_save else policy


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _script(*, can_save: bool) -> str:
    script = SCRIPT.read_text(encoding="utf-8")
    return f"{script}\n{SAVE_SCRIPT.read_text(encoding='utf-8')}" if can_save else script


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


def _deck_size(params_file: Path, address: str) -> int:
    """One number of a section that belongs to a stage."""
    value: Any = params.read(params_file)
    for key in address.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        message = f"{params_file}, {address}: expected the number of samples to annotate, at least 1, found {value!r}"
        raise InputError(message)
    return value
