"""For the tests of the server: decks of noise, an application without a socket, and a real one in a process."""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pandas as pd

from pipeline.turing import pages
from pipeline.turing.deck import deck_sha256
from pipeline.turing.game import Decks, Game
from pipeline.turing.guard import Hosts
from pipeline.turing.seal import Seal
from pipeline.turing.server import make_app
from pipeline.turing.votes import VoteLog

ORIGIN = "http://127.0.0.1:8000"
SEED = 42


def write_deck(folder, *, name="mnist", seed=0, n=40, side=8, channels=1, title="Digits & <b>co</b>"):
    """Generated images are noise (long when compressed), real ones are flat (short)."""
    rng = np.random.default_rng(seed)
    generated = rng.permutation(np.arange(n) % 2 == 0)
    images = np.empty((n, side, side, channels), dtype=np.uint8)
    for row in range(n):
        noise = rng.integers(0, 256, (side, side, channels))
        images[row] = noise if generated[row] else rng.integers(256)
    out = folder / name
    out.mkdir(parents=True, exist_ok=True)
    np.save(out / "images.npy", images)
    truth = pd.DataFrame({"row": np.arange(n), "generated": generated, "key": [f"k{row}" for row in range(n)]})
    truth.to_parquet(out / "truth.parquet", index=False)
    about = {"name": name, "title": title, "model": "mb_mnist", "dataset": "mnist", "n_images": n}
    about |= {"sha256": deck_sha256(images, generated), "paper": None}
    (out / "deck.json").write_text(json.dumps(about))
    return out


class Client:
    """Requests to an application without a socket, as a browser on this machine would send them."""

    def __init__(self, app, origin=ORIGIN):
        self.app = app
        self.origin = origin

    def request(self, method, address, headers=None, **more):
        async def send():
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url=self.origin) as client:
                return await client.request(method, address, headers=headers, **more)

        return asyncio.run(send())

    def get(self, address, **more):
        return self.request("GET", address, **more)

    def post(self, address, content, **headers):
        named = {"Content-Type": "application/json", "Origin": self.origin}
        named |= {name.replace("_", "-"): value for name, value in headers.items()}
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        return self.request("POST", address, content=body, headers=named)


@contextlib.contextmanager
def opened(folder, *, seed=SEED, key=b"k" * 32, host="127.0.0.1", simulated=False):
    """A game on the decks below ``folder``, as the server opens it, and a client."""
    with VoteLog(folder / "votes.jsonl", simulated=simulated) as log:
        decks = Decks(folder / "decks")
        game = Game(decks=decks, log=log, seed=seed, seal=Seal(key), picture=pages.picture)
        yield game, Client(make_app(game, Hosts(host, frozenset({"desk"}))))


def answer_to(shown, picked, **changes):
    """What the page would send."""
    answer = {"deck": shown.deck.name, "sha256": shown.deck.sha256, "annotator": shown.annotator, "mode": shown.mode}
    answer |= {"number": shown.number, "picked": picked, "seconds": 1.5, "token": shown.token}
    return answer | changes


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


# ---- a server in a process of its own ----

CLI = [sys.executable, "-m", "pipeline.project.cli"]


def write_project(folder, **deck):
    """The least that ``gan-tables turing serve embedded`` needs."""
    (folder / ".dvc").mkdir()
    (folder / "dvc.yaml").write_text("stages: {}\n")
    (folder / "params.yaml").write_text(f"turing:\n  seed: {SEED}\n  decks: {{}}\n")
    (folder / "annotations/embedded").mkdir(parents=True)
    (folder / "annotations/embedded/votes.jsonl").touch()
    write_deck(folder / "data/embedded/turing_deck", **deck)
    return folder


def environment():
    """Of a process that finds this checkout from any folder; nothing of the caller's settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "GAN_"))}
    return kept | {"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "PYTHONDONTWRITEBYTECODE": "1"}


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as bound:
        return bound.getsockname()[1]


class Server:
    """``gan-tables`` serving in a process that can be killed and started again at the same address."""

    def __init__(self, folder, *command):
        self.folder, self.command = folder, command
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.process = None

    def start(self):
        with (Path(self.folder) / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*CLI, *self.command, "--port", str(self.port)],
                cwd=self.folder, env=environment(), stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return self
            time.sleep(0.05)
        self.stop()
        raise RuntimeError(self.said())

    def said(self):
        return (Path(self.folder) / "server.log").read_text()

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()

    def __enter__(self):
        return self.start()

    def __exit__(self, *error):
        self.stop()
