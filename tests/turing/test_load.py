"""Twenty clients at once and a real server that is killed in the middle: no acknowledged vote is lost or doubled."""

import json
import re
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
from made_server import Server, lines, write_project

from pipeline.turing.deck import read_deck

N_CLIENTS = 20
N_SCREENS = 12
KILL_AFTER = 60  # answers of all clients together
DEADLINE = 120  # seconds, so that a server that never comes back fails the test


class Annotator:
    """A browser's part: asks for a screen, sends the answer until it is acknowledged."""

    def __init__(self, server, name, acknowledged, alive):
        self.server, self.name, self.acknowledged, self.alive = server, name, acknowledged, alive
        self.mode = "feedback" if int(name[1:]) % 2 else "plain"
        self.retries = 0

    def play(self):
        with httpx.Client(base_url=self.server.address, headers={"Origin": self.server.address}) as client:
            self.client = client
            for number in range(N_SCREENS):
                page = self.persist(lambda: client.get(f"/play?deck=mnist&mode={self.mode}&annotator={self.name}"))
                shown = dict(re.findall(r'data-(\w+)="([^"]*)"', page.text))
                assert int(shown["number"]) == number
                picked = [place for place in range(9) if (place + number) % 2]
                answer = {name: shown[name] for name in ("deck", "sha256", "annotator", "mode", "token")}
                answer |= {"number": number, "picked": picked, "seconds": 0.5}
                said = self.persist(lambda: client.post("/answers", json=answer)).json()  # noqa: B023 - called at once
                assert not said["differs"]
                self.acknowledged.append((self.name, self.mode, number, tuple(picked)))
        return self.retries

    def persist(self, ask):
        deadline = time.monotonic() + DEADLINE
        while True:
            try:
                answer = ask()
            except httpx.TransportError:
                assert time.monotonic() < deadline
                self.retries += 1
                self.alive.wait(1)
                time.sleep(0.05)
            else:
                assert answer.status_code == 200, answer.text
                return answer


def test_no_vote_is_lost_or_doubled_over_a_kill(tmp_path):
    folder = write_project(tmp_path)
    acknowledged, alive = [], threading.Event()
    with Server(folder, "turing", "serve", "embedded") as server, ThreadPoolExecutor(N_CLIENTS) as pool:
        began = time.monotonic()
        played = [pool.submit(Annotator(server, f"p{n}", acknowledged, alive).play) for n in range(N_CLIENTS)]
        while len(acknowledged) < KILL_AFTER:
            assert time.monotonic() < began + DEADLINE
            time.sleep(0.005)
        before = time.monotonic()
        server.kill()
        n_before = len(acknowledged)
        at_kill = {(vote["annotator"], vote["screen"]) for vote in whole_lines(server)}
        assert {(name, number) for name, _, number, _ in acknowledged} <= at_kill
        restarting = time.monotonic()
        server.start()
        back = time.monotonic()
        alive.set()
        retries = [play.result() for play in played]
        seconds = (before - began) + (time.monotonic() - back)
    rate = 9 * len(acknowledged) / seconds
    print(f"{rate:.0f} votes/s ({seconds:.1f} s without the restart of {back - restarting:.1f} s)")
    assert n_before < N_CLIENTS * N_SCREENS
    assert sum(retries) > 0
    votes = lines(folder / "annotations/embedded/votes.jsonl")
    assert len(votes) == 9 * len(acknowledged) == 9 * N_CLIENTS * N_SCREENS
    places = Counter((vote["annotator"], vote["mode"], vote["screen"], vote["place"]) for vote in votes)
    assert set(places.values()) == {1}
    said = {(vote["annotator"], vote["mode"], vote["screen"], vote["place"]): vote["answer"] for vote in votes}
    for name, mode, number, picked in acknowledged:
        assert [said[name, mode, number, place] for place in range(9)] == [place in picked for place in range(9)]
    deck = read_deck(folder / "data/embedded/turing_deck/mnist")
    assert [vote["truth"] for vote in votes] == np.asarray(deck.generated)[[vote["image"] for vote in votes]].tolist()


def whole_lines(server):
    """What a killed server left, without a torn last line."""
    content = (server.folder / "annotations/embedded/votes.jsonl").read_text()
    return [json.loads(line) for line in content.split("\n")[:-1]]
