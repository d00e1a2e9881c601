"""kill -9 in the middle of training the classifier, then the same command again: the same bytes."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_resume import said_by_killed, said_by_whole
from ruamel.yaml import YAML

from pipeline.core.seeding import numpy_stream
from pipeline.core.store import no_rejects, write_set

# The stage, saving at every chance; it says each step. It slows down once it has said so many that it is about to be
# killed: the kill then comes in the middle, even on a busy machine.
STAGE = """
import sys, time
from pathlib import Path
import pipeline.training.checkpoint as checkpoint
checkpoint.SECONDS_BETWEEN = 0.0
from pipeline.training import classifier as training
from stages import classifier
slow_after, step_of = int(sys.argv[1]), training.training_step
def told(state, *rest):
    print(state.step, flush=True)
    if state.step >= slow_after:
        time.sleep(0.2)
    step_of(state, *rest)
training.training_step = told
classifier.main(Path(sys.argv[2]), sys.argv[3], *map(Path, sys.argv[4:]))
"""
NEVER = 10**9
N_STEPS = 12  # three epochs of 35 images in batches of eight


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A params file, an image set, and what an unbroken run makes of them."""
    here = tmp_path_factory.mktemp("resume")
    run = {"dataset": "made", "seed": 3, "width": 2, "flips": True, "max_shift": 3}
    run |= {"learning_rate": 0.1, "batch_size": 8, "epochs": 3}
    shared = {"momentum": 0.9, "weight_decay": 0.0005, "warmup_share": 0.25, "log_every_steps": 5}
    machine = {"device": "cpu", "threads": 1, "precision": "auto"}
    YAML().dump({"compute": machine, "classifier": shared | {"runs": {"made": run}}}, here / "params.yaml")
    splits = ["train"] * 35 + ["test"] * 10
    images = numpy_stream(0, "images").integers(0, 256, (45, 32, 32, 3), dtype=np.uint8)
    index = pd.DataFrame({"split": splits, "label": np.arange(45) % 5, "source": "made"})
    write_set(here / "set", images, index.assign(key=[f"{i:03d}" for i in index.index]), no_rejects())
    assert run_whole(here, "unbroken") == list(range(N_STEPS))
    return here


def command(here: Path, out: str, slow_after: int) -> list[str]:
    paths = [here / "set", here / out]
    return [sys.executable, "-c", STAGE, str(slow_after), str(here / "params.yaml"), "made", *map(str, paths)]


def run_whole(here: Path, out: str) -> list[int]:
    """Run to the end; the steps it said."""
    return [int(line) for line in said_by_whole(command(here, out, NEVER), here)]


def run_killed(here: Path, out: str, lines: int) -> list[int]:
    """kill -9 once so many steps were said."""
    return [int(line) for line in said_by_killed(command(here, out, lines - 1), here, out, lines)]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_training_survives_kill_9(folder: Path):
    """In step 7: in the middle of an epoch and of an interval of the log."""
    said = run_killed(folder, "killed", 7)
    assert said[:7] == list(range(7))
    assert [*(folder / "scratch").glob("*/seed3.safetensors")]
    last = run_whole(folder, "killed")
    assert last[0] in (said[-1], said[-1] + 1), "resumed where it was killed"
    assert last[-1] == N_STEPS - 1
    expected, found = contents(folder / "unbroken"), contents(folder / "killed")
    assert sorted(found) == ["history.parquet", "networks.safetensors", "run.json"]
    assert [name for name, content in expected.items() if found[name] != content] == []


def test_the_record(folder: Path):
    record = json.loads((folder / "unbroken" / "run.json").read_text())
    counts = {"run": "made", "steps": N_STEPS, "n_images": 35, "n_test": 10, "n_classes": 5}
    assert {key: record[key] for key in counts} == counts
    assert record["params"]["width"] == 2
    assert 0 <= record["test_accuracy_percent"] <= 100
    history = pd.read_parquet(folder / "unbroken" / "history.parquet")
    assert history["step"].tolist() == [5, 10, 12]
