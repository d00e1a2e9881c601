"""Files of boxes and exemplars: what is read from them, and the sentence for each thing that can be wrong with them."""

import json
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.core.errors import InputError
from pipeline.internals import annotations
from pipeline.internals.annotations import OtherDeckError, generator_sha256, read_boxes, read_exemplars
from pipeline.internals.frozen import FrozenGenerator, Reference, freeze
from pipeline.models.build import ColourArchitecture, build_generator
from pipeline.models.dcgan import PAPER
from pipeline.project.lock import PROFILES

N_IMAGES = 20
REFERENCE = Reference(seed=0, n_images=4)


@pytest.fixture(scope="module")
def generator():
    """A small generator of 64 x 64 images with random weights."""
    architecture = ColourArchitecture(name="dcgan_64", z="uniform", z_dim=3, filters=1, variant=PAPER)
    network = build_generator(architecture)
    stream = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            weight.normal_(generator=stream)
    return FrozenGenerator(
        rows=freeze(network, torch.rand(4, 3)), architecture=architecture, reference=REFERENCE, device="cpu"
    )


@pytest.fixture(scope="module")
def boxes_file(generator):
    return {
        "network": generator_sha256(generator),
        "annotator": "a1",
        "n_images": N_IMAGES,
        "boxes": {"17": [[0, 1.5, 64, 30], [3, 4, 5, 6]], "2": [[10, 10, 20, 64]], "5": []},
    }


@pytest.fixture(scope="module")
def exemplars_file(generator):
    return {
        "network": generator_sha256(generator),
        "annotator": "a1",
        "n_images": N_IMAGES,
        "concepts": {"smiling woman": [19, 0, 7], "neutral woman": [1, 2, 3, 4], "neutral man": [7, 8, 9]},
        "problems": [["smiling woman", "neutral woman", "neutral man"]],
        "turn": {"left": [1, 2, 3, 4], "right": [5, 6, 0, 19]},
    }


def read(reader, path, content, generator, n_images=N_IMAGES):
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return reader(path, generator=generator, n_images=n_images)


def changed(file, address, value):
    """A copy with one value changed, put in or (None of ...) taken out."""
    copy = deepcopy(file)
    *outer, key = address
    place = copy
    for part in outer:
        place = place[part]
    if value is ...:
        del place[key]
    else:
        place[key] = value
    return copy


def test_nothing_annotated(tmp_path, generator):
    for reader in (read_boxes, read_exemplars):
        assert read(reader, tmp_path / "file.json", b"{}\n", generator) is None


def test_boxes_as_they_are_in_the_file(tmp_path, generator, boxes_file):
    found = read(read_boxes, tmp_path / "boxes.json", boxes_file, generator)
    assert (found.annotator, found.n_images) == ("a1", N_IMAGES)
    assert sorted(found.boxes) == [2, 17]  # an image with an empty list has no window
    assert all(boxes.dtype == np.float64 for boxes in found.boxes.values())
    np.testing.assert_array_equal(found.boxes[17], [[0, 1.5, 64, 30], [3, 4, 5, 6]])
    np.testing.assert_array_equal(found.boxes[2], [[10, 10, 20, 64]])


def test_exemplars_as_they_are_in_the_file(tmp_path, generator, exemplars_file):
    found = read(read_exemplars, tmp_path / "exemplars.json", exemplars_file, generator)
    assert (found.annotator, found.n_images) == ("a1", N_IMAGES)
    assert found.concepts == {name: tuple(indices) for name, indices in exemplars_file["concepts"].items()}
    assert found.problems == (("smiling woman", "neutral woman", "neutral man"),)
    assert found.turn == annotations.Turn(left=(1, 2, 3, 4), right=(5, 6, 0, 19))


def test_exemplars_of_one_kind_only(tmp_path, generator, exemplars_file):
    path = tmp_path / "exemplars.json"
    assert read(read_exemplars, path, exemplars_file | {"turn": None}, generator).turn is None
    only_turn = read(read_exemplars, path, exemplars_file | {"concepts": {}, "problems": []}, generator)
    assert (only_turn.concepts, only_turn.problems) == ({}, ())
    assert only_turn.turn is not None


def test_committed_files_have_the_right_shape(root):
    for profile in PROFILES:
        for name, kind in (("boxes", annotations._BoxesFile), ("exemplars", annotations._ExemplarsFile)):
            content = annotations._read(root / "annotations" / profile / f"{name}.json", kind)
            assert content is None or isinstance(content, kind)


# ---- what is refused ----


def refused(reader, path, content, generator, *says, error=InputError, n_images=N_IMAGES):
    with pytest.raises(error) as caught:
        read(reader, path, content, generator, n_images)
    message = str(caught.value)
    assert type(caught.value) is error
    assert message.startswith(str(path))
    assert "\n" not in message
    for part in says:
        assert part in message


BOTH = [
    (b"[1]", "the file: value should be an object, found [1]"),
    (b"{", "not valid JSON"),
    (b'{"network": 1, "network": 2}', "key 'network' comes twice"),
    (b"\xff", "not valid JSON"),
    ((["network"], ...), "missing key 'network'; expected annotator"),
    ((["colour"], 1), "unknown key 'colour'; expected annotator"),
    ((["annotator"], "Jane Doe"), "annotator: found 'Jane Doe', expected a pseudonym"),
    ((["annotator"], "me@example.org"), "annotator: found 'me@example.org', expected a pseudonym"),
    ((["annotator"], "a1\n"), "expected a pseudonym"),
    ((["n_images"], True), "n_images: value should be a valid integer, found True"),
    ((["n_images"], 20.5), "n_images: value should be a valid integer"),
]


@pytest.mark.parametrize(("change", "says"), BOTH)
@pytest.mark.parametrize("kind", ["boxes", "exemplars"])
def test_bad_file(tmp_path, generator, boxes_file, exemplars_file, kind, change, says):
    reader, file = {"boxes": (read_boxes, boxes_file), "exemplars": (read_exemplars, exemplars_file)}[kind]
    path = tmp_path / "file.json"
    refused(reader, path, change if isinstance(change, bytes) else changed(file, *change), generator, says)


def test_a_folder_in_its_place(tmp_path, generator):
    (tmp_path / "boxes.json").mkdir()
    with pytest.raises(InputError, match=r"boxes\.json: cannot be read \(Is a directory\); a file of annotations is"):
        read_boxes(tmp_path / "boxes.json", generator=generator, n_images=N_IMAGES)


def test_missing_file(tmp_path, generator):
    with pytest.raises(InputError, match=r"boxes\.json: missing; write \{\} into it"):
        read_boxes(tmp_path / "boxes.json", generator=generator, n_images=N_IMAGES)


@pytest.mark.parametrize(
    ("address", "value", "says"),
    [
        (["boxes"], [], "boxes: value should be an object, found []"),
        (["boxes"], {"5": []}, "boxes: found no box"),
        (["boxes", "20"], [[1, 1, 2, 2]], "boxes: found index '20', expected one of the deck's, 0 to 19"),
        (["boxes", "-1"], [[1, 1, 2, 2]], "boxes: found index '-1'"),
        (["boxes", "02"], [[1, 1, 2, 2]], "boxes: found index '02'"),
        (["boxes", "1" * 5000], [[1, 1, 2, 2]], "boxes: found index '1111"),
        (["boxes", "²"], [[1, 1, 2, 2]], "boxes: found index '²'"),
        (["boxes", "2"], [[1, 1, 2]], "boxes.2.0: List should have at least 4 items"),
        (["boxes", "2"], [[1, 1, 2, 2, 2]], "boxes.2.0: List should have at most 4 items"),
        (["boxes", "2"], [[1, 1, 2, "2"]], "boxes.2.0.3: value should be a valid number, found '2'"),
        (["boxes", "2"], [[1, 1, 2, float("nan")]], "boxes.2.0.3: value should be a finite number"),
        (["boxes", "2"], [[1, 1, 2, 2], [1, 1, 64.5, 2]], "boxes.2.1: found the box [1.0, 1.0, 64.5, 2.0], expected 0"),
        (["boxes", "2"], [[-1, 1, 2, 2]], "x1 < x2 <= 64"),
        (["boxes", "2"], [[2, 1, 2, 2]], "0 <= x1 < x2"),
        (["boxes", "2"], [[1, 3, 2, 2]], "0 <= y1 < y2 <= 64"),
        (["boxes", "2"], [[1, 3, 2, 65]], "0 <= y1 < y2 <= 64"),
    ],
)
def test_bad_boxes(tmp_path, generator, boxes_file, address, value, says):
    refused(read_boxes, tmp_path / "boxes.json", changed(boxes_file, address, value), generator, says)


@pytest.mark.parametrize(
    ("address", "value", "says"),
    [
        (["concepts", "x"], [1, 2], "concepts.x: found 2 exemplars, expected at least 3"),
        (["concepts", "x"], [1, 2, 20], "concepts.x: found index 20, expected one of the deck's, 0 to 19"),
        (["concepts", "x"], [1, 2, -1], "concepts.x: found index -1"),
        (["concepts", "x"], [1, 2, 2], "concepts.x: found [1, 2, 2], expected each index once"),
        (["concepts", "x"], [1, 2, 3.5], "concepts.x.2: value should be a valid integer, found 3.5"),
        (["concepts", ""], [1, 2, 3], "at least 1 character"),
        (["problems"], [["neutral man", "neutral woman"]], "problems.0: List should have at least 3 items"),
        (
            ["problems"],
            [["neutral man", "hat", "neutral woman"]],
            "problems.0: unknown concept 'hat'; expected smiling woman, neutral woman, neutral man",
        ),
        (["problems"], [["neutral man", "neutral man", "neutral woman"]], "expected three different concepts"),
        (["turn", "left"], [1, 2, 3], "turn.left: found 3 exemplars, expected at least 4"),
        (["turn", "right"], [5, 6, 7, 20], "turn.right: found index 20"),
        (["turn", "right"], [5, 6, 7, 4], "turn: index 4 is in left and in right"),
        (["turn", "right"], ..., "turn: missing key 'right'; expected left, right"),
        (["turn", "up"], [1], "turn: unknown key 'up'; expected left, right"),
        (["turn"], ..., "missing key 'turn'; expected annotator, concepts"),
    ],
)
def test_bad_exemplars(tmp_path, generator, exemplars_file, address, value, says):
    refused(read_exemplars, tmp_path / "exemplars.json", changed(exemplars_file, address, value), generator, says)


def test_file_without_any_exemplar(tmp_path, generator, exemplars_file):
    nothing = exemplars_file | {"concepts": {}, "problems": [], "turn": None}
    refused(read_exemplars, tmp_path / "exemplars.json", nothing, generator, "concepts: found none, and no turn")


# ---- which network ----


def other(generator, number=-1):
    """A copy of the generator with one parameter changed by the least that fp32 can."""
    rows = deepcopy(generator.rows)
    weight = list(rows.parameters())[number].detach().view(-1)
    weight[-1] = torch.nextafter(weight[-1], torch.tensor(torch.inf))
    return replace(generator, rows=rows)


def test_sha_changes_with_any_parameter_and_the_architecture(generator):
    n = len(list(build_generator(generator.architecture).parameters()))  # gains and shifts of batch norm among them
    assert n == len(list(generator.rows.parameters())) == 13
    others = [other(generator, number) for number in range(n)]
    others.append(replace(generator, architecture=replace(generator.architecture, z="gaussian")))
    found = {generator_sha256(one) for one in others}
    assert len({*found, generator_sha256(generator)}) == n + 2
    assert generator_sha256(replace(generator, rows=deepcopy(generator.rows))) == generator_sha256(generator)


def test_sha_changes_with_the_reference_batch(generator):
    others = [replace(generator, reference=Reference(seed=seed, n_images=n)) for seed, n in ((0, 4), (1, 4), (0, 5))]
    assert len({generator_sha256(other) for other in others}) == 3


@pytest.mark.parametrize("kind", ["boxes", "exemplars"])
def test_annotations_of_other_samples(tmp_path, generator, boxes_file, exemplars_file, kind):
    reader, file = {"boxes": (read_boxes, boxes_file), "exemplars": (read_exemplars, exemplars_file)}[kind]
    path = tmp_path / "file.json"
    says = ["the generator is", "no longer those that were annotated", "gan-tables annotate", "write {}"]
    refused(reader, path, file, other(generator), *says, error=OtherDeckError)
    says = ["n_images: found 20, but the params ask for a deck of 30"]
    refused(reader, path, file, generator, *says, error=OtherDeckError, n_images=30)
