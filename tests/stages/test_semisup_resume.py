"""kill -9 in the middle of batched semi-supervised training, then the same command again: the same bytes."""

import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_resume import said_by_killed, said_by_whole
from ruamel.yaml import YAML

from pipeline.core.seeding import numpy_stream
from pipeline.core.store import no_rejects, write_set
from pipeline.models.store import read_tensors

ROOT = Path(__file__).resolve().parents[2]

# The stage, saving at every chance; it says each step as a line: what is trained (0: both players, 1: D on the labelled
# images alone), how many networks at once, step. It slows down once it has said so many lines that it is about to be
# killed: the kill then comes in the middle, even on a busy machine.
STAGE = """
import sys, time
from pathlib import Path
import pipeline.training.checkpoint as checkpoint
checkpoint.SECONDS_BETWEEN = 0.0
from pipeline.training import semisupervised
from stages import semisup
slow_after, said, step_of = int(sys.argv[1]), 0, semisupervised.training_step
def told(state, run, compute, batches, step, *, labels_only=False):
    global said
    said += 1
    print(int(labels_only), len(batches.members), step, flush=True)
    if said >= slow_after:
        time.sleep(0.2)
    step_of(state, run, compute, batches, step, labels_only=labels_only)
semisupervised.training_step = told
semisup.main(Path(sys.argv[2]), sys.argv[3], *map(Path, sys.argv[4:]))
"""
NEVER = 10**9
Step = tuple[int, int, int]
# two splits of two seeds, three networks at once and then one; 4 epochs of 5 steps, 2 epochs on labelled images alone
STEPS = [(0, n, step) for n in (3, 1) for step in range(20)] + [(1, n, step) for n in (3, 1) for step in range(10)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A params file, an image set, and what an unbroken run makes of them."""
    here = tmp_path_factory.mktemp("resume")
    values = YAML(typ="safe").load(ROOT / "params.yaml")
    values["compute"] |= {"threads": 1, "precision": "fp32"}
    run = values["semisup"]["runs"]["mnist-20"]
    run["architecture"] |= {"z_dim": 5, "generator_width": 6, "discriminator_width": 4, "reference_batch": 4}
    run["techniques"] |= {"historical_averaging": 0.1, "real_target": 0.9, "generator_steps": 2}
    run |= {"splits": [0, 1], "seeds": [0, 5], "at_once": 3, "batch_size": 16, "constant_epochs": 2, "decay_epochs": 2}
    run |= {"test_every_epochs": 3, "labels_only_epochs": 2, "n_snapshots": 3}
    values["semisup"] |= {"log_every_steps": 3, "n_samples": 6}
    YAML().dump(values, here / "params.yaml")
    splits = ["train"] * 70 + ["validation"] * 20 + ["test"] * 25
    images = numpy_stream(0, "images").integers(0, 256, (len(splits), 28, 28, 1), dtype=np.uint8)
    index = pd.DataFrame({"split": splits, "label": np.arange(len(splits)) % 10, "source": "made"})
    write_set(here / "set", images, index.assign(key=[f"{i:03d}" for i in index.index]), no_rejects())
    assert run_whole(here, "unbroken") == STEPS
    return here


def command(here: Path, out: str, slow_after: int) -> list[str]:
    """Paths as dvc.yaml writes them: relative to the project's root."""
    outs = [here / out / name for name in ("model", "results", "samples.npz", "curves.csv")]
    first, *paths = (os.path.relpath(path, ROOT) for path in (here / "params.yaml", here / "set", *outs))
    return [sys.executable, "-c", STAGE, str(slow_after), first, "mnist-20", *paths]


def run_whole(here: Path, out: str) -> list[Step]:
    """Run to the end; the steps it said."""
    return steps_of(said_by_whole(command(here, out, NEVER), here))


def run_killed(here: Path, out: str, lines: int) -> list[Step]:
    """kill -9 once so many lines were said."""
    return steps_of(said_by_killed(command(here, out, lines), here, out, lines))


def steps_of(lines: list[str]) -> list[Step]:
    return [(int(part), int(n), int(step)) for part, n, step in (line.split() for line in lines)]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_training_survives_kill_9(folder: Path):
    """In step 13 of three networks, and in step 7 of three on labelled images alone.

    Both are in the middle of an epoch and of an interval of the log. The second count is of the second process.
    """
    out, after = "killed", 0
    ran: list[Step] = []
    for lines in (14, 35):
        said = run_killed(folder, out, lines)
        assert said[0] in STEPS[max(0, after - 1) : after + 1], "resumed where it was killed"
        after = STEPS.index(said[-1]) + 1
        ran += said
    assert [*(folder / "scratch").glob("*/*.safetensors")]
    last = run_whole(folder, out)
    assert last[0] in STEPS[after - 1 : after + 1]
    assert [step for step in STEPS if step in {*ran, *last}] == STEPS
    expected, found = contents(folder / "unbroken"), contents(folder / out)
    tables = ["errors", "health", "history"]
    assert sorted(expected) == sorted(
        ["curves.csv", "samples.npz", "model/networks.safetensors", "model/run.json", "model/labelled.parquet"]
        + ["results/run.json", "results/logits.npz"]
        + [f"{place}/{name}.parquet" for place in ("model", "results") for name in tables]
    )
    assert sorted(found) == sorted(expected)
    assert [name for name, content in expected.items() if found[name] != content] == []


def test_snapshots_are_kept_on_the_way(folder: Path):
    """Of 20 steps after a third, two thirds, and the last, which is the generator itself; all three differ."""
    tensors = read_tensors(folder / "unbroken/model/networks.safetensors", "seed5/split1/generator")
    of_name: dict[str, list[bytes]] = {}
    for name, tensor in tensors.items():
        of_name.setdefault(name.split("/")[2], []).append(tensor.numpy().tobytes())
    assert {*of_name} == {"generator", "generator_step7", "generator_step14"}
    assert len({b"".join(parts) for parts in of_name.values()}) == 3


def test_what_the_stage_leaves_fits_together(folder: Path):
    """Members, logits and labels as the tables read them."""
    results = folder / "unbroken" / "results"
    with np.load(results / "logits.npz") as arrays:
        assert arrays["members"].tolist() == [[0, 0], [0, 5], [1, 0], [1, 5]]
        assert arrays["members"].dtype == np.int64
        assert arrays["labels"].tolist() == [row % 10 for row in range(90, 115)]
        assert arrays["logits"].shape == arrays["labels_only"].shape == (4, 25, 10)
        assert arrays["logits"].dtype == arrays["labels_only"].dtype == np.float32
        assert np.abs(arrays["logits"] - arrays["labels_only"]).max() > 0.01
        wrong = 100 * (arrays["logits"].argmax(2) != arrays["labels"]).mean(axis=1)
    errors = pd.read_parquet(results / "errors.parquet")
    assert errors.loc[errors["epoch"] == 4, "error_percent"].tolist() == pytest.approx(wrong.tolist())
    assert sorted(set(errors["epoch"])) == [3, 4]
    with np.load(folder / "unbroken" / "samples.npz") as arrays:
        assert arrays["images"].shape == (4, 6, 28, 28, 1)
        assert arrays["images"].dtype == np.uint8
        assert arrays["members"].tolist() == [[0, 0], [0, 5], [1, 0], [1, 5]]
    curve = pd.read_csv(folder / "unbroken" / "curves.csv")
    assert [*curve.columns] == ["epoch", "error_percent", "lowest", "highest", "error_percent_last"]
    assert curve["error_percent"].iloc[-1] == pytest.approx(wrong.mean())
    record = YAML(typ="safe").load(results / "run.json")
    assert (record["run"], record["steps"], record["labels_only_steps"], record["n_images"]) == ("mnist-20", 20, 10, 90)
    assert record["params"]["techniques"]["historical_averaging"] == 0.1
