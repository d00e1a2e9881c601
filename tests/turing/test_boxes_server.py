"""The server that saves boxes: what it takes, and that nothing bad, late or foreign replaces the file."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from made_desk import N_IMAGES, write_desk, write_generator
from made_server import ORIGIN, Client

from pipeline.core import compute
from pipeline.core.errors import InputError
from pipeline.internals import annotation_page
from pipeline.internals.annotations import read_boxes
from pipeline.turing import boxes
from pipeline.turing.guard import Hosts
from pipeline.turing.seal import Seal

PLACE = Path("annotations/embedded/boxes.json")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(write_desk(tmp_path))
    monkeypatch.setattr(compute, "set_up", lambda machine: None)  # the tests' own threads
    return tmp_path


def served():
    desk = annotation_page.open_desk("windows", "embedded", Path("params.yaml"))
    return desk, Client(boxes.make_app(desk, Seal(b"k" * 32), Hosts("127.0.0.1")))


@pytest.fixture
def running(folder):
    return served()


def data_of(client):
    page = client.get("/")
    assert page.status_code == 200, page.text
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page.text)[1])


def file_of(data, **changes):
    return {
        "network": data["network"],
        "annotator": "a1",
        "n_images": N_IMAGES,
        "boxes": {"1": [[8, 10, 30, 40]]},
    } | changes


def save(client, data, content, **headers):
    saving = data["saving"]
    named = {"X_Token": saving["token"], "X_Base": saving["base"]} | headers
    return client.post(saving["address"], content, **named)


def test_saved_boxes_are_what_the_reader_reads(running):
    desk, client = running
    data = data_of(client)
    assert data["annotated"] is None
    text = json.dumps(file_of(data), indent=1).encode()
    answer = save(client, data, text)
    assert answer.status_code == 200
    assert PLACE.read_bytes() == text
    found = read_boxes(PLACE, generator=desk.generator, n_images=N_IMAGES)
    assert {index: corners.tolist() for index, corners in found.boxes.items()} == {1: [[8, 10, 30, 40]]}
    again = data_of(client)
    assert again["annotated"]["boxes"] == {"1": [[8, 10, 30, 40]]}
    assert again["saving"]["base"] == answer.json()["base"] != data["saving"]["base"]
    assert [path.name for path in PLACE.parent.iterdir()] == ["boxes.json"]


def test_page_runs_only_our_script(running):
    _, client = running
    page = client.get("/")
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy
    assert "connect-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    script = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
    assert len(script) == 1
    for text in (script[0], re.search("<style>(.*?)</style>", page.text, re.DOTALL)[1]):
        assert annotation_page._source(text) in policy


def test_page_from_the_disk_sends_nothing(folder):
    written = annotation_page.write_page("windows", "embedded", Path("params.yaml"))
    text = written.page.read_text()
    assert "fetch(" not in text
    assert "connect-src" not in text
    assert '"saving": null' in text
    assert "download the file and put it at annotations/embedded/boxes.json" in text


BAD = [
    ({"boxes": {"1": [[30, 10, 8, 40]]}}, "boxes.1.0: found the box"),
    ({"boxes": {"1": [[8, 10, 30, 65]]}}, "boxes.1.0: found the box"),
    ({"boxes": {"4": [[8, 10, 30, 40]]}}, "found index '4'"),
    ({"boxes": {"../1": [[8, 10, 30, 40]]}}, "found index '../1'"),
    ({"boxes": {"1": [[8, 10, 30]]}}, "boxes.1.0"),
    ({"boxes": {"1": "x"}}, "boxes.1"),
    ({"boxes": {}}, "found no box"),
    ({"boxes": None}, "boxes"),
    ({"annotator": "Jane Doe"}, "expected a pseudonym"),
    ({"annotator": ""}, "expected a pseudonym"),
    ({"more": 1}, "unknown key 'more'"),
]


@pytest.mark.parametrize(("change", "said"), BAD)
def test_bad_files_replace_nothing(running, change, said):
    _, client = running
    data = data_of(client)
    base = save(client, data, file_of(data)).json()["base"]
    before = PLACE.read_bytes()
    answer = save(client, data, file_of(data, **change), X_Base=base)
    assert answer.status_code == 422
    assert said in answer.json()["error"]
    assert "partial" not in answer.json()["error"]
    assert PLACE.read_bytes() == before
    assert [path.name for path in PLACE.parent.iterdir()] == ["boxes.json"]


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"{", b"null", b"[]", b"\xff", b"[" * 9000, b'{"a":' * 9000, b'{"boxes": NaN}']
)
def test_garbage_replaces_nothing(running, body):
    _, client = running
    answer = save(client, data_of(client), body)
    assert answer.status_code == 422, answer.text
    assert set(answer.json()) == {"error"}
    assert PLACE.read_text() == "{}\n"


def test_who_comes_second_is_told(running):
    _, client = running
    first, second = data_of(client), data_of(client)
    assert save(client, first, file_of(first)).status_code == 200
    before = PLACE.read_bytes()
    answer = save(client, second, file_of(second, annotator="b2"))
    assert answer.status_code == 409
    assert "changed since this page was opened" in answer.json()["error"]
    assert PLACE.read_bytes() == before


def test_a_page_whose_reply_was_lost_saves_again_and_nobody_else(running):
    _, client = running
    data, other = data_of(client), data_of(client)
    assert save(client, data, file_of(data), X_Page="7").status_code == 200  # and its new base is never heard of
    again = save(client, data, file_of(data, boxes={"2": [[1, 2, 30, 40]]}), X_Page="7")
    assert again.status_code == 200
    assert list(json.loads(PLACE.read_bytes())["boxes"]) == ["2"]
    for header in ({}, {"X_Page": ""}, {"X_Page": "8"}):
        assert save(client, other, file_of(other), **header).status_code == 409
    PLACE.write_bytes(PLACE.read_bytes().replace(b"40", b"41"))  # by hand, or by git
    assert save(client, data, file_of(data), X_Page="7").status_code == 409


def test_of_many_at_once_one_is_saved(running):
    _, client = running
    data = data_of(client)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: save(client, data, file_of(data, annotator=f"a{n}")), range(8)))
    assert sorted(answer.status_code for answer in answers) == [200, *[409] * 7]
    winner = [answer.status_code for answer in answers].index(200)
    assert json.loads(PLACE.read_bytes())["annotator"] == f"a{winner}"


def test_boxes_of_other_samples(running):
    _, client = running
    data = data_of(client)
    for change in ({"network": "0" * 64}, {"n_images": 5}):
        assert save(client, data, file_of(data, **change)).status_code == 409
    write_generator(Path(), seed=7)  # trained again, and a server of the new one
    _, other = served()
    answer = save(other, data, file_of(data))
    assert answer.status_code == 403
    assert "other samples" in answer.json()["error"]
    assert PLACE.read_text() == "{}\n"


def test_earlier_boxes_of_other_samples_are_left_until_something_is_saved(running):
    _, client = running
    data = data_of(client)
    save(client, data, file_of(data))
    before = PLACE.read_bytes()
    write_generator(Path(), seed=7)
    _, other = served()
    new = data_of(other)
    assert new["annotated"] is None
    assert "annotated on other samples" in new["note"]
    assert PLACE.read_bytes() == before
    assert save(other, new, file_of(new)).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"X_Token": "0" * 32}, 403),
        ({"X_Token": ""}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Host": "evil.example"}, 400),
        ({"Content_Type": "text/plain"}, 415),
        ({"X_Base": "none"}, 409),
        ({}, 200),
    ],
)
def test_foreign_posts(running, headers, status):
    _, client = running
    data = data_of(client)
    assert save(client, data, file_of(data), **headers).status_code == status
    assert (PLACE.read_text() == "{}\n") == (status != 200)


def test_post_without_origin_and_too_large(running):
    _, client = running
    data = data_of(client)
    headers = {"Content-Type": "application/json", "X-Token": data["saving"]["token"], "X-Base": data["saving"]["base"]}
    body = json.dumps(file_of(data)).encode()
    assert client.request("POST", "/boxes", content=body, headers=headers).status_code == 403
    assert save(client, data, body + b" " * boxes.LARGEST).status_code == 413
    assert client.request("POST", "/boxes", content=body, headers=headers | {"Origin": ORIGIN}).status_code == 200


def test_full_disk_keeps_the_earlier_file(running, monkeypatch):
    _, client = running
    data = data_of(client)

    def no_space(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(boxes.os, "fsync", no_space)
        answer = save(client, data, file_of(data))
    assert answer.status_code == 507
    assert "no space left on the disk; free some space and save again" in answer.json()["error"]
    assert PLACE.read_text() == "{}\n"
    assert save(client, data, file_of(data)).status_code == 200


def test_damaged_file_is_named(running):
    desk, client = running
    PLACE.write_text("{")
    with pytest.raises(InputError, match=r"boxes\.json: not valid JSON"):
        boxes.make_app(desk, Seal(b"k" * 32), Hosts("127.0.0.1"))
    page = client.get("/")  # damaged while the server runs
    assert page.status_code == 409
    assert "not valid JSON" in page.text


def test_model_is_missing(folder, monkeypatch):
    (folder / "data/embedded/models/dcgan_lsun/run.json").unlink()
    with pytest.raises(
        InputError, match=r"dcgan_lsun: not trained here; run dvc --wait-for-lock repro train@dcgan_lsun$"
    ):
        boxes.serve("embedded", Path("params.yaml"), host="127.0.0.1", port=0)
