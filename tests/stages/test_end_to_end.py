"""The whole graph on tiny sizes, twice, in one process and in graph order: same input, same bytes."""

import hashlib
import importlib
import inspect
import shlex
import shutil
from pathlib import Path

import networkx as nx
import pandas as pd
import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from pipeline import papers
from pipeline.core.records import COLUMNS

ROOT = Path(__file__).parents[2]


def tiny_params() -> dict:
    values = YAML(typ="safe").load(ROOT / "params.yaml")
    values["compute"] |= {"threads": 1, "precision": "fp32"}
    fetch = {name: source["rendered"] for name, source in values["fetch"].items() if "rendered" in source}
    fetch["cifar10"] |= {"n_train": 100, "n_test": 20}
    fetch["svhn"] |= {"n_train": 120, "n_test": 20}
    fetch["lsun"] |= {"n_train": 60, "n_validation": 6, "n_planted": 14, "n_mirrored": 4}
    fetch["imagenet"] |= {"n_train": 32, "n_validation": 16}
    fetch["faces"] |= {"n_scenes": 12, "n_without_face": 8, "test_share": 0.5}
    fetch["neardup"] |= {"n_groups": 4, "n_distractors": 4}
    for name in ("cifar10", "svhn"):
        values["assemble"][name] |= {key: fetch[name][key] for key in ("n_train", "n_test")}
    values["assemble"]["svhn"]["n_validation"] = 40
    values["face_accuracy"] |= {"scale_factors": [1.2], "min_neighbours": [3], "min_sizes": [60], "max_photos": None}
    values["hash_model"] |= {"epochs": 2}
    values["dedup"] |= {"max_constant_units": 1.0, "min_distinct_codes": 0.0, "max_group_share": 1.0}
    values["sheet"] |= {"n_images": 10}
    for name, run in values["train"]["runs"].items():
        run["architecture"] |= {"filters": 4, "z_dim": 8}
        run |= {"batch_size": 6, "constant_epochs": 1, "decay_epochs": 1}
        if name in ("gan_mnist", "dcgan_mnist"):
            run["architecture"]["hidden"] = 16
            run |= {"seeds": [0, 1], "batch_size": 500}
            run["selection"] = {"every_epochs": 1, "batch_size": 100, "n_images": [100]}
    values["train"] |= {"log_every_steps": 2, "n_samples": 10}
    values["train"]["runs"]["imagenet128_dcgan"]["architecture"] |= {"filters": 2, "z_dim": 5}
    values["imagenet128"] |= {"batch_size": 4, "epochs": 1, "log_every_steps": 2, "n_samples": 6}
    values["imagenet128"]["architecture"] |= {"z_dim": 3, "generator_width": 2, "noise_maps": [1, 1, 1, 1, 0, 1]}
    values["imagenet128"]["architecture"] |= {"reference_batch": 2, "discriminator_width": 2}
    values["imagenet128"]["architecture"] |= {"n_kernels": 3, "kernel_dim": 2}
    # the others differ in numbers alone
    kept = ("mnist-100", "cifar10-4000", "svhn-1000", "mb_mnist", "mb_svhn", "is_ours", "is_nolabels_ha")
    values["semisup"]["runs"] = {name: values["semisup"]["runs"][name] for name in kept}
    for run in values["semisup"]["runs"].values():
        run["architecture"] |= {"generator_width": 4, "discriminator_width": 4, "z_dim": 8}
        if run["architecture"]["reference_batch"]:
            run["architecture"]["reference_batch"] = 4
        if "n_kernels" in run["architecture"]:
            # noise tells the few labelled images apart, which are tiled for the initialisation of the minibatch layer
            run["architecture"] |= {"n_kernels": 3, "noise": True}
        run |= {"splits": [0, 1], "seeds": [0, 1], "at_once": 3, "constant_epochs": 1}
        run["n_labels"] = min(run["n_labels"], 10)
        run |= {"decay_epochs": 1, "test_every_epochs": 1, "labels_only_epochs": min(run["labels_only_epochs"], 1)}
        run["batch_size"] = 500 if run["dataset"] == "mnist" else 20
    for name in ("is_ours", "is_nolabels_ha"):
        values["semisup"]["runs"][name]["splits"] = [0]  # scores tell the networks of a run by their seed alone
    values["semisup"] |= {"log_every_steps": 2, "n_samples": 10}
    values["classifier"]["runs"]["cifar10"] |= {"width": 2, "batch_size": 16, "epochs": 1}
    values["score"] |= {"n_images": 40, "batch_size": 20, "n_splits": 2, "n_kept": 8, "top_share": 0.2, "neighbours": 2}
    values["score"] |= {
        "n_neighbour_images": 10,
        "kernel_subsets": 2,
        "kernel_subset_size": 8,
        "n_images_over_steps": 20,
    }
    decks = values["turing"]["decks"]
    decks["mnist"]["n_images"] = decks["cifar10"]["n_images"] = 10
    internals = values["internals"]
    internals["reference"]["n_images"] = 12
    internals["samples"] |= {"n_shown": 20, "n_held_out": 4, "n_images": 5, "n_samples": [10, 30]}
    internals["walk"] |= {"n_points": 3, "frames_per_segment": 4, "n_random_pairs": 5}
    internals["guided_backprop"] |= {"n_images": 20, "n_judged": 3}
    internals["part_detector"] |= {"filters": 4, "steps": 5, "batch_size": 4}
    internals["forget_windows"] |= {"n_labelled": 12, "n_folds": 2, "n_judged": 10, "n_random_draws": 2}
    internals["face_attributes"] |= {"filters": 4, "steps": 5, "batch_size": 4}
    internals["arithmetic"] |= {"n_deck": 60, "n_exemplars": [1, 3], "n_problems": 6, "confidence": 0.5}
    internals["turn"] |= {"extreme_share": 0.1, "n_judged": 5}
    values["toy_games"] |= {"n_steps": 50, "sweep_strengths": [0.0, 0.1], "sweep_learning_rates": [0.01]}
    values["kmeans"] |= {"n_maps": 8, "n_patches": 500, "iterations": 5, "batch_size": 100}
    values["probe"]["cifar10"] |= {"n_validation": 40, "C": [0.001, 0.01], "labels_per_class": [2, 4]}
    values["probe"]["svhn"] |= {"C": [0.001, 0.01], "labels_per_class": [2], "draws_to_test": 3}
    values["pixel_neighbours"] |= {"labels_per_class": 2, "k": [1, 3], "draws_to_test": 2}
    values["supervised_cnn"] |= {"n_trials": 2, "filters": 4, "labels_per_class": 2, "max_epochs": 2}
    values["neighbours"] = {"batch_size": 100, "n_images": [100, 300], "n_images_last_epoch": [100]}
    return values


def call_stage(cmd: str) -> None:
    """Run ``exec python -m stages.NAME ARGS`` in this process, arguments converted as typer would."""
    words = shlex.split(cmd.replace("exec ", "").replace("${GAN_LAUNCH:-}", ""))
    assert words[:2] == ["python", "-m"], cmd
    main = importlib.import_module(words[2]).main
    arguments = words[3:]
    options = {}
    while len(arguments) > 2 and arguments[-2].startswith("--"):
        options[arguments[-2].removeprefix("--")] = Path(arguments[-1])
        del arguments[-2:]
    given: list = []
    for number, parameter in enumerate(inspect.signature(main).parameters.values()):
        if parameter.annotation == list[Path]:
            given.append([Path(word) for word in arguments[number:]])
        elif number < len(arguments):
            given.append(parameter.annotation(arguments[number]))
    main(*given, **options)


def run_graph(folder: Path) -> dict[str, str]:
    """Run all stages in ``folder``; return the sha256 of every file that they wrote."""
    for name in ("pipeline", "stages", "annotations"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    graph, params = YAML(typ="safe").load(ROOT / "dvc.yaml"), tiny_params()
    scored = graph["stages"]["score"]["foreach"]  # those of the runs that are kept
    graph["stages"]["score"]["foreach"] = {
        name: item for name, item in scored.items() if name == "real" or name in params["semisup"]["runs"]
    }
    YAML().dump(graph, folder / "dvc.yaml")
    YAML().dump(params, folder / "params.yaml")
    with Repo.init(str(folder), no_scm=True) as repo:
        graph = repo.index.graph
        commands = [stage.cmd for stage in reversed(list(nx.topological_sort(graph)))]
    for cmd in commands:
        call_stage(cmd)
    written = [path for top in ("data", "reports") for path in (folder / top).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(written)}


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.delenv("DVC_STAGE", raising=False)
    patch.delenv("DVC_ROOT", raising=False)
    folders, hashes = [], []
    for name in ("first", "second"):
        folder = tmp_path_factory.mktemp(name)
        patch.chdir(folder)
        patch.setenv("GAN_SCRATCH", str(folder / ".work"))
        folders.append(folder)
        hashes.append(run_graph(folder))
    patch.undo()
    return folders, hashes


def test_two_runs_give_the_same_bytes(two_runs):
    _, (first, second) = two_runs
    assert first == second
    assert "reports/embedded/report.md" in first
    assert "reports/embedded/datasets.md" in first
    assert "reports/embedded/sheets/lsun_collisions.png" in first
    assert "data/embedded/models/dcgan_mnist/networks.safetensors" in first
    assert "data/embedded/models/mb_svhn/networks.safetensors" in first
    assert "reports/embedded/tables/improved_table1.csv" in first
    assert "reports/embedded/tables/improved_table3.csv" in first
    assert "data/embedded/models/imagenet128_improved/networks.safetensors" in first
    assert "data/embedded/turing_deck/cifar10_top/images.npy" in first


def test_nothing_unfinished_is_left(two_runs):
    (folder, _), _ = two_runs
    assert not list(folder.rglob("*.partial"))
    assert not list((folder / ".work").glob("*@*")), "scratch folders go away on success"


def test_table3_has_every_published_row_in_order(two_runs):
    (folder, _), _ = two_runs
    table = pd.read_csv(folder / "reports/embedded/tables/dcgan_table3.csv", keep_default_na=False)
    assert tuple(table.columns) == COLUMNS
    printed = [(p.row, p.column, p.value, p.kind) for p in papers.DCGAN_TABLE3]
    head = table.head(len(printed))
    assert list(zip(head["row"], head["column"], head["paper"].astype(float), head["kind"], strict=True)) == printed
    assert set(table["kind"].iloc[len(printed) :]) == {"extra"}
    measured = table[table["kind"] != "published"]
    assert (measured["measured"] != "").all()
    assert (measured["comparable"] == "no").all()
    assert (table[table["kind"] == "published"]["measured"] == "").all()


def test_table3_counts_what_was_searched(two_runs):
    (folder, _), _ = two_runs
    table = pd.read_csv(folder / "reports/embedded/tables/dcgan_table3.csv").set_index(["row", "column"])
    assert table.loc[("Real Data", papers.AT_50K), "n_images"] == 3500
    assert table.loc[("DCGAN (ours)", papers.AT_10M), "n_images"] == 300
    assert table.loc[("DCGAN (ours)", papers.AT_10M), "n_seeds"] == 2
    assert "300 generated digits instead of 10,000,000" in table.loc[("DCGAN (ours)", papers.AT_10M), "note"]


def test_table3_mean_and_spread_are_those_of_the_seeds(two_runs):
    (folder, _), _ = two_runs
    results = pd.read_parquet(folder / "data/embedded/results/dcgan_table3/gan_mnist.parquet")
    errors = results.query("network == 'generator' and n_images == 300")["error_percent"]
    assert len(errors) == 2
    table = pd.read_csv(folder / "reports/embedded/tables/dcgan_table3.csv").set_index(["row", "column"])
    row = table.loc[("GAN", papers.AT_10M)]
    assert row["measured"] == pytest.approx(errors.mean(), rel=1e-5)
    assert row["spread"] == pytest.approx(errors.std(ddof=1), rel=1e-5, abs=1e-9)


def test_every_image_is_accounted_for(two_runs):
    """in = out + rejected + duplicates, for every set; the deduplicated rooms are those of the set before."""
    (folder, _), _ = two_runs
    table = pd.read_csv(folder / "reports/embedded/tables/datasets.csv")
    counts = table[table["unit"] == "images"].pivot_table(index="row", columns="column", values="measured")
    assert len(counts) == 9
    assert (counts["in"] == counts["out"] + counts["rejected"] + counts["duplicates"]).all()
    asked = {"MNIST": 5000, "CIFAR-10": 120, "SVHN": 140, papers.LSUN: 60 + 6 + 14 + 4, "Near-duplicates": 4 * 19 + 4}
    asked |= {"ImageNet 32 x 32": 48, "ImageNet 128 x 128": 48}
    assert counts.loc[list(asked), "in"].to_dict() == asked  # nothing was lost before it was counted
    assert counts.loc[papers.LSUN_DEDUP, "in"] == counts.loc[papers.LSUN, "out"]
    assert counts.loc[papers.LSUN_DEDUP, "duplicates"] > 0
    photos = table[(table["row"] == papers.FACES) & (table["column"] == "photos")]["measured"]
    assert photos.tolist() == [12 + 8]
    assert counts.loc[papers.FACES, "out"] > 0
