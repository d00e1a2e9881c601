"""kill -9 in the middle of a stage, then the same command again: the same bytes as an unbroken run."""

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML

from pipeline.core.seeding import numpy_stream
from pipeline.core.store import no_rejects, write_set

ROOT = Path(__file__).resolve().parents[2]

# A stage that saves at every chance, says each step or save as a line, and slows down once it has said so many lines
# that it is about to be killed: the kill then comes in the middle, even on a busy machine.
PREAMBLE = """
import sys, time
from pathlib import Path
import pipeline.training.checkpoint as checkpoint
checkpoint.SECONDS_BETWEEN = 0.0
slow_after, said = int(sys.argv[1]), 0
def say(line):
    global said
    said += 1
    print(line, flush=True)
    if said >= slow_after:
        time.sleep(0.2)
arguments = [Path(sys.argv[2]), sys.argv[3], *map(Path, sys.argv[4:])]
"""
TRAIN = (
    PREAMBLE
    + """
from pipeline.training import adversarial
from stages import train
step_of = adversarial.training_step
def told(state, run, compute, batches, seed, step, *, measured):
    say(f"{seed} {step}")
    step_of(state, run, compute, batches, seed, step, measured=measured)
adversarial.training_step = told
train.main(*arguments)
"""
)
NEIGHBOURS = (
    PREAMBLE
    + """
from pipeline.evaluation import digits
from stages import neighbours
digits.BLOCK_IMAGES = 40
write = digits.write_tensors
def told(path, tensors):
    write(path, tensors)
    say(f"{path.name.split('-')[0].strip('.').removeprefix('seed')} {int(tensors['seen'])}")
digits.write_tensors = told
neighbours.main(*arguments)
"""
)
NEVER = 10**9


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A params file, an image set, and what unbroken runs of both stages make of them."""
    here = tmp_path_factory.mktemp("resume")
    values = YAML(typ="safe").load(ROOT / "params.yaml")
    values["compute"] |= {"threads": 1, "precision": "fp32"}
    run = values["train"]["runs"]["dcgan_mnist"]
    run["architecture"] |= {"filters": 4, "hidden": 16, "z_dim": 5}
    run |= {"seeds": [0, 1], "batch_size": 16, "constant_epochs": 3, "decay_epochs": 2}
    run["selection"] = {"every_epochs": 2, "batch_size": 20, "n_images": [40]}
    run["sample_every_epochs"] = 2
    values["train"] |= {"log_every_steps": 6, "n_samples": 10}
    values["neighbours"] = {"batch_size": 20, "n_images": [40, 400, 2000], "n_images_last_epoch": [200]}
    YAML().dump(values, here / "params.yaml")
    splits = ["train"] * 76 + ["validation"] * 20 + ["test"] * 80
    images = numpy_stream(0, "images").integers(0, 256, (len(splits), 28, 28, 1), dtype=np.uint8)
    index = pd.DataFrame({"split": splits, "label": np.arange(len(splits)) % 10, "source": "made"})
    write_set(here / "set", images, index.assign(key=[f"{i:03d}" for i in index.index]), no_rejects())
    run_whole(TRAIN, here, train_arguments(here, "unbroken"))
    run_whole(NEIGHBOURS, here, neighbours_arguments(here, "unbroken"))
    return here


def from_root(path: Path) -> str:
    """As dvc.yaml writes paths: relative to the project's root."""
    return os.path.relpath(path, ROOT)


def train_arguments(here: Path, out: str) -> list[str]:
    paths = [here / "set", *(here / out / name for name in ("model", "small", "samples.npz", "curves.csv"))]
    return [from_root(here / "params.yaml"), "dcgan_mnist", *map(from_root, paths)]


def neighbours_arguments(here: Path, out: str) -> list[str]:
    """Always on the model of the unbroken run."""
    paths = [here / "set", here / "unbroken" / "model", here / out / "rows.parquet", here / out / "sheet.npz"]
    return [from_root(here / "params.yaml"), "dcgan_mnist", *map(from_root, paths)]


def environment(here: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "GAN_"))}
    return kept | {"GAN_SCRATCH": str(here / "scratch"), "PYTHONPATH": str(ROOT)}


def run_whole(code: str, here: Path, arguments: list[str]) -> list[tuple[int, int]]:
    """Run to the end; the lines it said, as pairs of numbers."""
    command = [sys.executable, "-c", code, str(NEVER), *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment(here), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not [*(here / "scratch").iterdir()], "the scratch folder goes away on success"
    return pairs(done.stdout.splitlines())


def run_killed(code: str, here: Path, arguments: list[str], lines: int) -> list[tuple[int, int]]:
    """kill -9 once so many lines were said."""
    command = [sys.executable, "-c", code, str(lines), *arguments]
    with subprocess.Popen(command, cwd=ROOT, env=environment(here), stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        said: list[str] = []
        while len(pairs(said)) < lines:
            said.append(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        said += child.stdout.readlines()
    assert child.returncode == -signal.SIGKILL
    return pairs(said)


def pairs(lines: list[str]) -> list[tuple[int, int]]:
    """Warnings about samples that have collapsed, which come of these tiny networks, are left out."""
    kept = [line.split() for line in lines if not line.startswith("warning: ")]
    return [(int(first), int(second)) for first, second in kept]


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def only(files: dict[str, str], belongs: Callable[[str], bool]) -> dict[str, str]:
    return {name: digest for name, digest in files.items() if belongs(name)}


def test_training_survives_kill_9(folder: Path):
    """25 steps a seed; killed in the second seed, in the middle of an epoch and of an interval of the log."""
    out, arguments = "train", train_arguments(folder, "train")
    before = run_killed(TRAIN, folder, arguments, lines=33)
    assert [path.name for path in (folder / "scratch").glob("*/seed1.safetensors")] == ["seed1.safetensors"]
    assert not (folder / out).exists()
    after = run_whole(TRAIN, folder, arguments)
    assert after[0] in (before[-1], (before[-1][0], before[-1][1] + 1)), "resumed where it was killed"
    assert sorted({*before, *after}) == [(seed, step) for seed in (0, 1) for step in range(25)]
    expected = only(
        hashes(folder / "unbroken"), lambda name: name.startswith(("model/", "small/", "curves", "samples"))
    )
    tables = {f"{name}.parquet" for name in ("history", "validation", "health")}
    small = {"run.json"} | tables
    assert {*expected} == {"curves.csv", "samples.npz", "model/networks.safetensors"} | {
        f"{folder}/{name}" for folder in ("model", "small") for name in small
    }
    assert hashes(folder / out) == expected


def test_search_survives_kill_9(folder: Path):
    """2,000 + 200 generated digits a seed, a checkpoint every 40: 55 lines a seed; killed in the second seed.

    The line is said, and the kill comes, between writing a checkpoint and putting it in the place of the old one.
    """
    out, arguments = "search", neighbours_arguments(folder, "search")
    before = run_killed(NEIGHBOURS, folder, arguments, lines=70)
    assert len(before) < 110
    assert not (folder / out).exists()
    after = run_whole(NEIGHBOURS, folder, arguments)
    assert after[0] in (before[-1], (before[-1][0], before[-1][1] + 40)), "resumed where it was killed"
    expected = only(hashes(folder / "unbroken"), lambda name: name in ("rows.parquet", "sheet.npz"))
    assert hashes(folder / out) == expected
    assert len(expected) == 2
