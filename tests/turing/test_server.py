"""The web server: what it shows, takes and refuses; above all that nothing it sends tells what is generated."""

import io
import json
import os
import re
import socket
import stat
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser

import numpy as np
import pytest
from made_server import CLI, ORIGIN, answer_to, lines, opened, write_deck, write_project
from PIL import Image

from pipeline.core.errors import InputError
from pipeline.turing import game as game_module
from pipeline.turing import listening, pages, server, votes
from pipeline.turing.deck import read_deck
from pipeline.turing.guard import Guard, Hosts
from pipeline.turing.rounds import screen
from pipeline.turing.seal import Seal, read_seal

PLAY = "/play?deck=mnist&mode={mode}&annotator={annotator}"


@pytest.fixture
def folder(tmp_path):
    write_deck(tmp_path / "decks")
    return tmp_path


@pytest.fixture
def running(folder):
    """A game and a client of its server."""
    with opened(folder) as both:
        yield both


class Elements(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def of(self, tag):
        return [attributes for found, attributes in self.found if found == tag]


def play(client, annotator="a1", mode="plain", deck="mnist"):
    return client.get(f"/play?deck={deck}&mode={mode}&annotator={annotator}")


def pictures_of(client, page):
    return [client.get(image["src"]) for image in Elements(page.text).of("img")]


def decoded(response):
    return np.asarray(Image.open(io.BytesIO(response.content)))


def rows_of(game, annotator="a1", mode="plain", number=0):
    deck = game.decks.get("mnist")
    return deck, list(screen(deck, seed=game.seed, annotator=annotator, mode=mode, number=number).rows)


# ---- pages ----


def test_start_page_offers_the_decks(running):
    _, client = running
    page = client.get("/")
    assert page.status_code == 200
    assert "Digits &amp; &lt;b&gt;co&lt;/b&gt;" in page.text  # the title goes in as text
    inputs = Elements(page.text).of("input")
    assert [item["value"] for item in inputs if item["name"] == "deck"] == ["mnist"]
    assert [item["value"] for item in inputs if item["name"] == "mode"] == ["plain", "feedback"]
    assert "simulated" not in page.text


@pytest.mark.parametrize(
    ("deck", "mode", "annotator", "said"),
    [
        ("mnist", "plain", "", "Enter a pseudonym"),
        ("mnist", "plain", "Jane Doe", "Enter a pseudonym"),
        ("mnist", "plain", "a" * 21, "Enter a pseudonym"),
        ("mnist", "plain", "a1%0A", "Enter a pseudonym"),
        ("mnist", "plain", "..%2F..%2Fetc", "Enter a pseudonym"),
        ("mnist", "plain", '"><script>alert(1)<%2Fscript>', "Enter a pseudonym"),
        ("../mnist", "plain", "a1", "Choose one of the decks"),
        ("", "plain", "a1", "Choose one of the decks"),
        ("mnist", "PLAIN", "a1", "with or without feedback"),
        ("mnist", "", "a1", "with or without feedback"),
    ],
)
def test_start_page_says_what_is_wrong(running, deck, mode, annotator, said):
    _, client = running
    page = client.get(f"/play?deck={deck}&mode={mode}&annotator={annotator}")
    assert page.status_code == 422
    alerts = [item for tag, item in Elements(page.text).found if item.get("role") == "alert"]
    assert len(alerts) == 1
    assert said in page.text
    assert "<script>alert" not in page.text


def test_screen_has_nine_named_buttons(running):
    _, client = running
    found = Elements(play(client).text)
    buttons = [item for item in found.of("button") if item["class"] == "image"]
    assert [item["aria-label"] for item in buttons] == [f"Image {number} of 9" for number in range(1, 10)]
    assert {item["aria-pressed"] for item in buttons} == {"false"}
    assert {item["type"] for item in buttons} == {"button"}


def test_pictures_are_the_rows_of_the_screen_in_order(running):
    game, client = running
    deck, rows = rows_of(game)
    shown = [decoded(picture) for picture in pictures_of(client, play(client))]
    np.testing.assert_array_equal(shown, deck.images[rows][..., 0])
    assert 4 <= deck.generated[rows].sum() <= 5


def test_colour_pictures_come_back():
    image = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(pages.picture(image)))), image)


def test_pages_load_nothing_from_elsewhere(running):
    _, client = running
    texts = [client.get("/").text, play(client).text, client.get("/nowhere").text]
    texts += [content.decode() for content, _ in pages.static_files().values()]
    for text in texts:
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|//cdn|@import|url\(", text)
    for text in texts[:3]:
        addresses = [item.get("src") or item.get("href") for _, item in Elements(text).found]
        assert all(address.startswith("/") for address in addresses if address)


def test_every_file_that_a_page_names_is_there(running):
    _, client = running
    named = {item.get("src") or item.get("href") for text in (client.get("/").text, play(client).text)
             for tag, item in Elements(text).found if tag in ("script", "link")}  # fmt: skip
    assert named == {f"/static/{name}" for name in pages.static_files()}
    for address in named:
        answer = client.get(address)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == pages.KINDS[f".{address.rpartition('.')[2]}"]


# ---- no word of the truth before the answer ----


def test_only_pixels_differ_between_decks(folder):
    """All that is sent for a screen of one deck and of another, byte by byte: only tokens and pixels are others."""
    sent = []
    for seed in (0, 1):
        write_deck(folder / "decks", seed=seed)
        with opened(folder) as (game, client):
            page = play(client)
            text = page.text.replace(game.decks.get("mnist").sha256, "DECK")
            pictures = pictures_of(client, page)
            sent.append([re.sub("[0-9a-f]{32}", "TOKEN", text), page.headers, *map(without_pixels, pictures)])
    assert sent[0] == sent[1]
    assert len({json.dumps([head.hex(), tail.hex()]) for head, tail, _ in sent[0][2:]}) == 1
    assert sent[0][0].count("TOKEN") == 10


def without_pixels(picture):
    """A PNG's signature, header and begin of the data; its end; and the headers that came with it."""
    return picture.content[:48], picture.content[-12:], picture.headers


def test_pictures_differ_in_pixels_only(running):
    """Compressed they would not: here noise is generated and a flat image is real."""
    game, client = running
    deck, rows = rows_of(game)
    pictures = pictures_of(client, play(client))
    assert len({len(picture.content) for picture in pictures}) == 1
    assert len({tuple(picture.headers.items()) for picture in pictures}) == 1
    assert {(image.format, image.mode, image.size) for image in opened_images(pictures)} == {("PNG", "L", (8, 8))}
    compressed = [len(_png(deck.images[row])) for row in rows]
    assert min(np.array(compressed)[deck.generated[rows]]) > max(np.array(compressed)[~deck.generated[rows]])


def opened_images(pictures):
    return [Image.open(io.BytesIO(picture.content)) for picture in pictures]


def _png(image):
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0]).save(buffer, format="PNG")
    return buffer.getvalue()


def test_ids_and_places_are_not_correlated_with_the_truth(running):
    """Over 100 screens: the mean truth at each place, and in each rank of the ids, is the mean truth of all."""
    game, _ = running
    by_place, by_rank, counts = [], [], []
    for person in range(100):
        shown = game.show("mnist", f"p{person}", "plain")
        deck, rows = rows_of(game, f"p{person}")
        truth = deck.generated[rows]
        by_place.append(truth)
        by_rank.append(truth[np.argsort(shown.images)])
        counts.append(truth.sum())
    assert set(counts) == {4, 5}
    for means in (np.mean(by_place, axis=0), np.mean(by_rank, axis=0)):
        assert np.abs(means - np.mean(counts) / 9).max() < 0.2  # four standard errors


def test_ids_need_the_key(running):
    game, _ = running
    shown = game.show("mnist", "a1", "plain")
    assert len({*shown.images, shown.token}) == 10
    other = opened_with_key(game, b"x" * 32)
    assert not {*shown.images} & {*other.images}
    assert other.token != shown.token


def opened_with_key(game, key):
    from dataclasses import replace

    return replace(game, seal=Seal(key)).show("mnist", "a1", "plain")


def test_plain_answers_tell_nothing(running):
    game, client = running
    deck, rows = rows_of(game)
    right = np.flatnonzero(deck.generated[rows]).tolist()
    said = [client.post("/answers", answer_to(game.show("mnist", who, "plain"), picked)).json()
            for who, picked in (("a1", right), ("b2", [0]))]  # fmt: skip
    assert said == [{"first": True, "differs": False}] * 2


# ---- answers ----


def test_an_answer_is_nine_votes(folder, running):
    game, client = running
    deck, rows = rows_of(game)
    assert client.post("/answers", answer_to(game.show("mnist", "a1", "plain"), [0, 8])).status_code == 200
    found = lines(folder / "votes.jsonl")
    assert [(vote["place"], vote["image"]) for vote in found] == list(enumerate(rows))
    assert [vote["answer"] for vote in found] == [True, *[False] * 7, True]
    assert [vote["truth"] for vote in found] == deck.generated[rows].tolist()
    same = {"annotator": "a1", "mode": "plain", "screen": 0, "deck": deck.sha256, "deck_name": "mnist"}
    same |= {"model": "mb_mnist", "seconds": 1.5, "simulated": False}
    assert all({name: vote[name] for name in same} == same for vote in found)


def test_feedback_tells_truth_and_running_score(running):
    game, client = running
    right = 0
    for number in range(3):
        deck, rows = rows_of(game, mode="feedback", number=number)
        shown = game.show("mnist", "a1", "feedback")
        assert shown.number == number
        said = client.post("/answers", answer_to(shown, [0, 1, 2])).json()
        truth = deck.generated[rows]
        right += int((truth == (np.arange(9) < 3)).sum())
        assert said["truth"] == truth.tolist()
        assert said["answers"] == [True] * 3 + [False] * 6
        assert (said["n_right"], said["n_judged"]) == (right, 9 * (number + 1))
    assert game.show("mnist", "a1", "plain").number == 0  # modes are counted apart
    assert game.show("mnist", "a2", "feedback").number == 0


def test_first_answer_counts(folder, running):
    game, client = running
    shown = game.show("mnist", "a1", "feedback")
    first = client.post("/answers", answer_to(shown, [1, 2])).json()
    before = (folder / "votes.jsonl").read_bytes()
    again = client.post("/answers", answer_to(shown, [2, 1], seconds=99.0)).json()
    other = client.post("/answers", answer_to(shown, [3])).json()
    assert (folder / "votes.jsonl").read_bytes() == before
    assert again == first | {"first": False}
    assert other == first | {"first": False, "differs": True}


def test_same_answers_after_a_restart(folder):
    with opened(folder) as (game, client):
        shown = game.show("mnist", "a1", "feedback")
        page, pictures = play(client, mode="feedback"), pictures_of(client, play(client, mode="feedback"))
    with opened(folder) as (game, client):  # nothing was answered: the same page, whose pictures still load
        assert play(client, mode="feedback").text == page.text
        again = [client.get(image["src"]).content for image in Elements(page.text).of("img")]
        assert again == [picture.content for picture in pictures]
        first = client.post("/answers", answer_to(shown, [4])).json()
    with opened(folder) as (game, client):  # it was answered, but the acknowledgement got lost
        assert client.post("/answers", answer_to(shown, [4])).json() == first | {"first": False}
        assert game.show("mnist", "a1", "feedback").number == 1
    assert len(lines(folder / "votes.jsonl")) == 9


def test_screen_of_a_killed_server_is_completed(folder):
    """Four votes reached the disk and a torn fifth; nothing was acknowledged, so the page sends all nine again."""
    with opened(folder) as (game, client):
        shown = game.show("mnist", "a1", "feedback")
        client.post("/answers", answer_to(shown, [0]))
    path = folder / "votes.jsonl"
    whole = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(whole[:4]) + whole[4][:50])
    with opened(folder) as (game, client):
        assert game.show("mnist", "a1", "feedback").token == shown.token
        said = client.post("/answers", answer_to(shown, [0, 8])).json()
    assert said["answers"] == [True, *[False] * 7, True]
    assert (said["first"], said["differs"]) == (False, False)
    assert [vote["place"] for vote in lines(path)] == list(range(9))


def test_two_tabs_at_once(folder, running):
    """Eight tabs of one annotator send the same screen at the same time: nine votes, and all are told the same."""
    game, client = running
    shown = game.show("mnist", "a1", "feedback")
    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(lambda place: client.post("/answers", answer_to(shown, [place])).json(), range(8)))
    assert len(lines(folder / "votes.jsonl")) == 9
    assert [one["first"] for one in said].count(True) == 1
    assert [one["differs"] for one in said].count(False) == 1
    assert len({json.dumps(one["answers"]) for one in said}) == 1


def test_simulated_votes_are_marked_and_lie_elsewhere(folder):
    with opened(folder, simulated=True) as (game, client):
        assert "simulated" in play(client).text
        client.post("/answers", answer_to(game.show("mnist", "a1", "plain"), []))
    assert all(vote["simulated"] for vote in lines(folder / "votes.jsonl"))
    assert "annotations" not in server.votes_file("embedded", simulated=True).parts
    assert server.votes_file("laptop", simulated=False).as_posix() == "annotations/laptop/votes.jsonl"


# ---- what is refused ----


def refused(folder, answer, status, said):
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"}
    assert said in answer.json()["error"]
    assert not (folder / "votes.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"picked": [9]}, "picked.0"),
        ({"picked": [-1]}, "picked.0"),
        ({"picked": [True]}, "picked.0"),
        ({"picked": [1, 1]}, "comes twice"),
        ({"picked": list(range(9)) * 2}, "picked"),
        ({"picked": "0"}, "picked"),
        ({"picked": None}, "picked"),
        ({"annotator": "Jane Doe"}, "annotator"),
        ({"annotator": "a1\n"}, "annotator"),
        ({"annotator": "a" * 21}, "annotator"),
        ({"annotator": "ä"}, "annotator"),
        ({"mode": "other"}, "mode"),
        ({"number": -1}, "number"),
        ({"number": 1.5}, "number"),
        ({"number": 10**30}, "number"),
        ({"number": "0"}, "number"),
        ({"seconds": -1.0}, "seconds"),
        ({"seconds": 1e9}, "seconds"),
        ({"sha256": "0" * 63}, "sha256"),
        ({"token": "../../etc/passwd"}, "token"),
        ({"truth": [True] * 9}, "truth"),
    ],
)
def test_answers_of_another_form(folder, running, change, said):
    game, client = running
    shown = game.show("mnist", "a1", "plain")
    refused(folder, client.post("/answers", answer_to(shown, [0]) | change), 422, said)


@pytest.mark.parametrize(
    "body", [b"", b"\x00\xff\xfe", b"{", b"null", b"[]", b"1", b'"x"', b"[" * 4000, b'{"a":' * 600, b'{"seconds": NaN}',
             b"deck=mnist&annotator=a1"]
)  # fmt: skip
def test_garbage(folder, running, body):
    _, client = running
    refused(folder, client.post("/answers", body), 422, "This is not an answer")


def test_missing_fields_one_by_one(folder, running):
    game, client = running
    answer = answer_to(game.show("mnist", "a1", "plain"), [0])
    for field in answer:
        some = {name: value for name, value in answer.items() if name != field}
        refused(folder, client.post("/answers", some), 422, field)


def test_not_json_by_name(folder, running):
    game, client = running
    answer = answer_to(game.show("mnist", "a1", "plain"), [0])
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        refused(folder, client.post("/answers", answer, Content_Type=kind), 415, "application/json")


def test_unknown_deck(folder, running):
    game, client = running
    answer = answer_to(game.show("mnist", "a1", "plain"), [0], deck="../../secret")
    refused(folder, client.post("/answers", answer), 404, "There is no deck of that name; there are mnist")


def test_screen_of_somebody_else_or_not_shown_yet(folder, running):
    game, client = running
    shown = game.show("mnist", "a1", "plain")
    for change in ({"annotator": "b2"}, {"mode": "feedback"}, {"number": 1}, {"token": "0" * 32}):
        refused(folder, client.post("/answers", answer_to(shown, [0]) | change), 403, "reload")
    # the token is ours, but the votes before it are gone (somebody took the file back in Git)
    token = game.seal.token("answer", shown.deck.sha256, "a1", "plain", 5)
    refused(folder, client.post("/answers", answer_to(shown, [0], number=5, token=token)), 409, "no longer there")


def test_deck_replaced_while_the_server_runs(folder, running):
    game, client = running
    shown = game.show("mnist", "a1", "plain")
    page = play(client)
    write_deck(folder / "decks", seed=5)
    refused(folder, client.post("/answers", answer_to(shown, [0])), 409, "The deck 'mnist' was replaced")
    assert {picture.status_code for picture in pictures_of(client, page)} == {404}
    new = game.show("mnist", "a1", "plain")
    assert new.deck.sha256 != shown.deck.sha256
    assert client.post("/answers", answer_to(new, [0])).status_code == 200
    assert {vote["deck"] for vote in lines(folder / "votes.jsonl")} == {new.deck.sha256}


def test_deck_replaced_while_the_server_starts(folder, monkeypatch):
    """After it was read, before it is first shown."""
    real = game_module.read_decks

    def replaced(path):
        found = real(path)
        write_deck(path, seed=5)
        return found

    monkeypatch.setattr(game_module, "read_decks", replaced)
    with opened(folder) as (game, _):
        assert game.decks.get("mnist").sha256 == read_deck(folder / "decks/mnist").sha256


@pytest.mark.parametrize("name", ["images.npy", "truth.parquet", "deck.json"])
def test_deck_gone_while_the_server_runs(folder, running, name):
    game, client = running
    shown = game.show("mnist", "a1", "plain")
    path = folder / "decks/mnist" / name
    content = path.read_bytes()
    path.unlink()
    refused(folder, client.post("/answers", answer_to(shown, [0])), 503, "turing_deck@mnist")
    page = play(client)
    assert page.status_code == 503
    assert "cannot be shown now" in page.text
    path.write_bytes(content)  # it is back
    assert client.post("/answers", answer_to(shown, [0])).status_code == 200


def test_full_disk_is_told_and_nothing_is_lost(folder, running, monkeypatch):
    game, client = running
    client.post("/answers", answer_to(game.show("mnist", "a1", "plain"), [0]))
    before = (folder / "votes.jsonl").read_bytes()
    shown = game.show("mnist", "a1", "plain")
    with monkeypatch.context() as patched:
        patched.setattr(votes.os, "fsync", no_space)
        answer = client.post("/answers", answer_to(shown, [1]))
    assert answer.status_code == 507
    assert "could not be saved" in answer.json()["error"]
    assert "No space left" in answer.json()["error"]
    assert (folder / "votes.jsonl").read_bytes() == before
    assert client.post("/answers", answer_to(shown, [1])).json()["first"]  # space was made
    assert len(lines(folder / "votes.jsonl")) == 18


def no_space(*_):
    raise OSError(28, os.strerror(28))


# ---- images are found by id alone ----


@pytest.mark.parametrize(
    "address",
    [
        "/images/mnist/plain/a1/0/" + "0" * 32 + ".png",
        "/images/mnist/plain/a1/0/..%2F..%2Fvotes.png",
        "/images/mnist/plain/a1/0/%2e%2e.png",
        "/images/..%2F..%2F/plain/a1/0/" + "0" * 32 + ".png",
        "/images/nothing/plain/a1/0/" + "0" * 32 + ".png",
        "/images/mnist/other/a1/0/" + "0" * 32 + ".png",
        "/images/mnist/plain/a1/-1/" + "0" * 32 + ".png",
        "/images/mnist/plain/a1/99999999/" + "0" * 32 + ".png",
        "/images/mnist/plain/a1/%D9%A3/" + "0" * 32 + ".png",
        "/static/..%2Fserver.py",
        "/static/%2e%2e/server.py",
        "/static/",
        "/static/screen.html",
        "/templates/start.html",
        "/votes.jsonl",
        "/docs",
        "/openapi.json",
    ],
)
def test_no_other_file_is_sent(running, address):
    _, client = running
    answer = client.get(address)
    assert answer.status_code == 404
    assert answer.headers["content-type"].startswith("text/html")


def test_image_of_another_screen_needs_its_id(running):
    game, client = running
    shown = game.show("mnist", "a1", "plain")
    for other in ("feedback/a1/0", "plain/b2/0", "plain/a1/1"):
        assert client.get(f"/images/mnist/{other}/{shown.images[0]}.png").status_code == 404
    assert client.get(f"/images/mnist/plain/a1/0/{shown.images[0]}.png").status_code == 200
    assert client.get(f"/images/mnist/plain/a1/0/{shown.token}.png").status_code == 404


# ---- cross-site requests, foreign hosts, size, headers ----


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Origin": ORIGIN.upper()}, 200),
        ({"Origin": "https://127.0.0.1:8000"}, 200),  # a proxy with a certificate
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:8001"}, 403),
        ({"Origin": "http://127.0.0.1"}, 403),
        ({"Origin": "http://127.0.0.1:8000.evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "none"}, 403),
    ],
)
def test_only_our_own_pages_may_post(folder, running, headers, status):
    game, client = running
    answer = client.post("/answers", answer_to(game.show("mnist", "a1", "plain"), [0]), **headers)
    assert answer.status_code == status
    assert bool((folder / "votes.jsonl").read_bytes()) == (status == 200)


def test_post_without_origin(folder, running):
    game, client = running
    body = json.dumps(answer_to(game.show("mnist", "a1", "plain"), [0])).encode()
    kind = {"Content-Type": "application/json"}
    refused(folder, client.request("POST", "/answers", content=body, headers=kind), 403, "own pages")
    site = kind | {"Sec-Fetch-Site": "same-origin"}
    assert client.request("POST", "/answers", content=body, headers=site).status_code == 200


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "NONSENSE"])
def test_other_methods(running, method):
    _, client = running
    for address in ("/", "/answers"):
        assert client.request(method, address, headers={"Origin": ORIGIN}).status_code == 405


@pytest.mark.parametrize(
    ("bound", "host", "allowed"),
    [
        ("127.0.0.1", "127.0.0.1:8000", True),
        ("127.0.0.1", "localhost:9", True),
        ("127.0.0.1", "LOCALHOST", True),
        ("127.0.0.1", "[::1]:8000", True),
        ("127.0.0.1", "evil.example", False),
        ("127.0.0.1", "127.0.0.1.evil.example:8000", False),
        ("127.0.0.1", "desk:8000", False),
        ("127.0.0.1", "192.168.1.5:8000", False),
        ("127.0.0.1", "", False),
        ("127.0.0.1", "[::1", False),
        ("127.0.0.1", "127.0.0.1@evil.example", False),
        ("0.0.0.0", "192.168.1.5:8000", True),  # digits are nobody's name
        ("0.0.0.0", "desk:8000", True),
        ("0.0.0.0", "desk.evil.example", False),
        ("0.0.0.0", "evil.example:8000", False),
        ("lab.example", "lab.example:8000", True),
        ("lab.example", "evil.example:8000", False),
    ],
)
def test_host_header(folder, bound, host, allowed):
    with opened(folder, host=bound) as (_, client):
        answer = client.get("/", headers={"Host": host})
    assert answer.status_code == (200 if allowed else 400)
    assert ("pseudonym" in answer.text) == allowed


def test_size_of_requests_is_bounded(folder, running):
    game, client = running
    answer = answer_to(game.show("mnist", "a1", "plain"), [0])
    padded = json.dumps(answer).encode()
    padded += b" " * (server.LARGEST - len(padded))
    refused(folder, client.post("/answers", padded + b" "), 413, "larger than 4096 bytes")
    refused(folder, client.post("/answers", b"", Content_Length="9" * 10), 413, "larger")
    refused(folder, client.post("/answers", b"", Content_Length="-1"), 413, "larger")

    async def endless():
        for _ in range(100):
            yield b" " * 1000

    chunked = {"Content-Type": "application/json", "Origin": ORIGIN}
    refused(folder, client.request("POST", "/answers", content=endless(), headers=chunked), 413, "larger")
    assert client.post("/answers", padded).status_code == 200


def test_every_answer_has_the_headers(running):
    game, client = running
    shown = game.show("mnist", "a1", "plain")
    answers = [
        client.get("/"),
        client.get("/nowhere"),
        client.get("/static/page.css"),
        client.get("/", headers={"Host": "evil.example"}),
        play(client),
        *pictures_of(client, play(client))[:1],
        client.post("/answers", b"x" * 9999),
        client.post("/answers", b"{}"),
        client.post("/answers", answer_to(shown, [0]), Origin="null"),
        client.post("/answers", answer_to(shown, [0])),
    ]
    assert {answer.status_code for answer in answers} == {200, 400, 403, 404, 413, 422}
    for answer in answers:
        assert answer.headers["content-security-policy"].startswith("default-src 'self';")
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["cache-control"] == "no-store"
        assert not {"etag", "last-modified", "set-cookie", "server"} & set(answer.headers)


def test_a_defect_is_a_sentence_too(running, monkeypatch):
    import asyncio

    import httpx

    game, client = running
    monkeypatch.setattr(type(game.log), "next_screen", lambda *_: 1 / 0)

    async def send():
        transport = httpx.ASGITransport(client.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url=ORIGIN) as asking:
            return await asking.get("/play?deck=mnist&mode=plain&annotator=a1")

    answer = asyncio.run(send())
    assert answer.status_code == 500
    assert "The server failed" in answer.text
    assert "ZeroDivision" not in answer.text
    assert answer.headers["content-security-policy"]


def test_no_websocket():
    import asyncio

    sent = []

    async def app(*_):
        raise AssertionError

    async def send(message):
        sent.append(message)

    guard = Guard(app, hosts=Hosts("127.0.0.1"), largest=9)
    asyncio.run(guard({"type": "websocket", "headers": []}, None, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


# ---- the key ----


def test_key_is_made_once_for_its_owner_alone(tmp_path):
    path = tmp_path / "turing/key"
    token = read_seal(path).token("a", 1)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_seal(path).token("a", 1) == token
    path.chmod(0o644)
    read_seal(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [item.name for item in path.parent.iterdir()] == ["key"]


def test_two_servers_that_start_at_once_have_one_key(tmp_path):
    barrier = threading.Barrier(6)

    def read(_):
        barrier.wait()
        return read_seal(tmp_path / "key").token("a")

    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(read, range(6)))) == 1


def test_parts_of_a_token_are_kept_apart():
    seal = Seal(b"k" * 32)
    assert len({seal.token("a", "bc"), seal.token("ab", "c"), seal.token("a", "b", "c"), seal.token("a,bc")}) == 4
    assert seal.token("a", 1) != seal.token("a", "1")
    assert not seal.fits("ä" * 32, "a")
    assert not seal.fits("", "a")


def test_a_file_that_is_no_key(tmp_path):
    (tmp_path / "key").write_bytes(b"short")
    with pytest.raises(InputError, match=r"key: found 5 bytes, expected a key of 32"):
        read_seal(tmp_path / "key")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be read or written"):
        read_seal(tmp_path / "file/key")


# ---- starting ----


def call(folder, env, *arguments):
    return subprocess.run(
        [*CLI, *arguments], cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False
    )


def test_without_decks_the_command_is_named(tmp_path, project_env, monkeypatch):
    write_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    done = call(tmp_path, project_env, "turing", "serve", "embedded")
    assert done.returncode == 1
    assert done.stderr.startswith("error: data/embedded/turing_deck: no deck there; run dvc repro turing_deck@")
    assert done.stderr.count("\n") == 1


def test_refused_starts(tmp_path, monkeypatch):
    write_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    from pathlib import Path

    def serve(**changes):
        server.serve(
            "embedded", Path("params.yaml"), **({"host": "127.0.0.1", "port": 0, "simulated": False} | changes)
        )

    monkeypatch.setattr(server, "run", lambda *_: serve())  # a second server, started from the first
    with pytest.raises(InputError, match=r"votes\.jsonl.* is already running"):
        serve()
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(InputError, match="cannot listen there"):
        serve(port=taken.getsockname()[1])
    with pytest.raises(InputError, match=r"--host 203\.0\.113\.9 --port 0: cannot listen there"):
        serve(host="203.0.113.9")
    with pytest.raises(InputError, match="no such address"):
        serve(host="no such host")
    Path("annotations/embedded/votes.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match=r"votes\.jsonl, line 1"):
        serve()


@pytest.mark.parametrize(("host", "warns"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_it_says_where_it_is_and_warns_of_the_network(monkeypatch, capsys, host, warns):
    import uvicorn

    monkeypatch.setattr(uvicorn.Server, "run", lambda *_, **__: None)
    with listening.listen(host, 0) as bound:
        port = bound.getsockname()[1]
        listening.run(None, bound, Hosts(host, frozenset()), "Here")
    said = capsys.readouterr()
    assert re.fullmatch(rf"Here: http://[\w.-]+:{port}/ \(Ctrl-C stops the server\)\n", said.out)
    assert ("127.0.0.1" in said.out) != warns
    assert Hosts(host).allow(said.out.split("/")[2])  # whoever opens it there is let in
    assert ("warning: 0.0.0.0 is reachable from other machines" in said.err) == warns


def test_of_two_that_bound_a_port_the_second_gets_a_sentence(monkeypatch):
    """A port that nobody listens at yet can be bound twice; which happens while a model is loaded."""
    import uvicorn

    monkeypatch.setattr(uvicorn.Server, "run", lambda *_, **__: None)
    hosts = Hosts("127.0.0.1", frozenset())
    with listening.listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with listening.listen("127.0.0.1", port) as second:
            listening.run(None, first, hosts, "First")
            with socket.create_connection(("127.0.0.1", port), timeout=5):  # waits until it is served
                pass
            with pytest.raises(InputError, match=rf"http://127\.0\.0\.1:{port}/: cannot listen there"):
                listening.run(None, second, hosts, "Second")


@pytest.mark.parametrize("command", [("turing", "serve"), ("boxes", "draw")])
def test_unknown_profile(tmp_path, project_env, command):
    done = call(write_project(tmp_path), project_env, *command, "../paper")
    assert done.returncode == 1
    expected = f"error: {' '.join(command)}: found the profile '../paper'; expected embedded, laptop, paper\n"
    assert done.stderr == expected
