"""kill -9 in the middle of a scoring pass, then the same command again: the same bytes."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_resume import said_by_killed, said_by_whole
from ruamel.yaml import YAML

from pipeline.core import params
from pipeline.core.seeding import numpy_stream, torch_stream
from pipeline.core.store import no_rejects, write_set
from pipeline.models import improved
from pipeline.models.classifier import ClassifierNetwork, initialise_classifier
from pipeline.models.store import named_tensors, write_model
from pipeline.training.semisupervised import Run
from stages import score

ROOT = Path(__file__).resolve().parents[2]

# The stage; it says each batch that the classifier judges, and slows down once it is about to be killed.
STAGE = """
import sys, time
from pathlib import Path
from pipeline.models.classifier import Classifier
from stages import score
slow_after, said, judge_of = int(sys.argv[1]), 0, Classifier.judge
def told(self, images):
    global said
    said += 1
    print(len(images), flush=True)
    if said >= slow_after:
        time.sleep(0.2)
    return judge_of(self, images)
Classifier.judge = told
score.main(Path(sys.argv[2]), sys.argv[3], *map(Path, sys.argv[4:]))
"""
NEVER = 10**9
# 22 training images to compare with, then 22 generated ones of each of two seeds, in batches of eight
BATCHES = [8, 8, 6] * 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A params file, an image set, a classifier, a run, and what an unbroken pass makes of them."""
    here = tmp_path_factory.mktemp("resume")
    values = YAML(typ="safe").load(ROOT / "params.yaml")
    values["compute"] |= {"threads": 1}
    run = values["semisup"]["runs"]["mb_cifar10"]
    run["architecture"] |= {"z_dim": 5, "generator_width": 4, "discriminator_width": 4}
    run |= {"splits": [0], "seeds": [0, 5]}
    values["score"] = {"n_images": 22, "n_splits": 2, "batch_size": 8, "n_kept": 3, "top_share": 0.1, "seed": 1}
    values["score"] |= {"neighbours": 2, "n_neighbour_images": 10, "kernel_subsets": 2, "kernel_subset_size": 6}
    values["score"] |= {"n_images_over_steps": 7}
    values["score"] |= {"inception": None}
    YAML().dump(values, here / "params.yaml")
    made = params.load(here / "params.yaml", Run, shared="semisup", own="semisup.runs.mb_cifar10")
    tensors = {}
    for seed in made.seeds:
        generator = improved.build_generator(made.architecture, 1)
        improved.initialise_generator(made.architecture, generator, [torch_stream(seed, "generator")], n_z=8)
        tensors |= named_tensors(f"seed{seed}/split0/generator", generator)
    write_model(here / "model", tensors, {"params": asdict(made), "steps": 4}, {})
    network = ClassifierNetwork(2, 10)
    initialise_classifier(network, torch_stream(0, "classifier"))
    record = {"params": {"width": 2, "seed": 0}, "n_classes": 10, "n_test": 15, "test_accuracy_percent": 50.0}
    write_model(here / "classifier", named_tensors("seed0/classifier", network), record, {})
    (here / "gate.json").write_text('{"not_run": "no weights"}')
    images = numpy_stream(0, "images").integers(0, 256, (45, 32, 32, 3), dtype=np.uint8)
    index = pd.DataFrame({"split": ["train"] * 30 + ["test"] * 15, "label": np.arange(45) % 10, "source": "made"})
    write_set(here / "set", images, index.assign(key=[f"{i:03d}" for i in index.index]), no_rejects())
    assert run_whole(here, "unbroken") == BATCHES
    return here


def command(here: Path, out: str, slow_after: int, source: str = "model") -> list[str]:
    paths = [here / name for name in ("set", source, "classifier", "gate.json")]
    paths += [here / out / name for name in ("row.parquet", "row.json", "over_steps.parquet", "samples.npz")]
    return [sys.executable, "-c", STAGE, str(slow_after), str(here / "params.yaml"), "is_ours", *map(str, paths)]


def run_whole(here: Path, out: str) -> list[int]:
    """Run to the end; the sizes of the batches that were judged."""
    return [int(line) for line in said_by_whole(command(here, out, NEVER), here)]


def run_killed(here: Path, out: str, lines: int) -> list[int]:
    """kill -9 once so many batches were said."""
    return [int(line) for line in said_by_killed(command(here, out, lines), here, out, lines)]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_scoring_survives_kill_9(folder: Path):
    """In the second batch of the first seed: what was found of real images is not looked for again."""
    said = run_killed(folder, "killed", 5)
    assert [*(folder / "scratch").glob("*/seed0/images.bin")]
    last = run_whole(folder, "killed")
    n_killed = len(said)
    assert last in (BATCHES[n_killed - 1 :], BATCHES[n_killed:]), "resumed where it was killed"
    expected, found = contents(folder / "unbroken"), contents(folder / "killed")
    assert sorted(found) == ["over_steps.parquet", "row.json", "row.parquet", "samples.npz"]
    assert [name for name, content in expected.items() if found[name] != content] == []


def test_what_the_stage_leaves(folder: Path):
    table = pd.read_parquet(folder / "unbroken" / "row.parquet")
    assert [*table.columns] == ["seed", "quantity", "split", "value", "n_images", "n_labels"]
    assert sorted(set(table["seed"])) == [-1, 0, 5]
    assert (table["quantity"] == "classifier_score").sum() == 4
    record = json.loads((folder / "unbroken" / "row.json").read_text())
    assert (record["run"], record["steps"], record["n_seeds"]) == ("is_ours", 4, 2)
    assert record["inception"] == "not run: no weights"
    with np.load(folder / "unbroken" / "samples.npz") as arrays:
        shapes = {name: (arrays[name].shape, str(arrays[name].dtype)) for name in arrays.files}
    assert shapes == {
        "images": ((2, 3, 32, 32, 3), "uint8"),
        "top": ((2, 32, 32, 3), "uint8"),
        "kl": ((22,), "float32"),
    }


def test_the_set_itself_as_its_source_is_the_row_of_real_images(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """15 test images to compare with, 22 training images."""
    monkeypatch.setenv("GAN_SCRATCH", str(folder / "scratch"))
    params_file, name, *paths = command(folder, "real", NEVER, "set")[4:]
    score.main(Path(params_file), name, *map(Path, paths))
    record = json.loads((folder / "real" / "row.json").read_text())
    assert (record["reference"], record["n_reference"], record["n_images"]) == ("test", 15, 22)
