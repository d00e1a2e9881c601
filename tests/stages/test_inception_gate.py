"""The stage that asks the Inception network for the paper's number before it may judge anything else."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from ruamel.yaml import YAML

from pipeline.core.store import no_rejects, write_set
from stages import inception_gate


def test_a_profile_without_weights_says_so(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("GAN_SCRATCH", str(tmp_path / "scratch"))
    score = {"n_images": 22, "n_splits": 2, "batch_size": 8, "n_kept": 3, "top_share": 0.1, "seed": 1}
    score |= {"neighbours": 2, "n_neighbour_images": 10, "kernel_subsets": 2, "kernel_subset_size": 6}
    score |= {"n_images_over_steps": 7}
    machine = {"device": "cpu", "threads": 1, "precision": "auto"}
    index = pd.DataFrame({"key": ["a", "b"], "split": "train", "label": 0, "source": "made"})
    write_set(tmp_path / "set", np.zeros((2, 32, 32, 3), np.uint8), index, no_rejects())
    weights = {"file": "weights.pth", "url": "https://example.org/weights.pth", "sha256": "0" * 64}
    for inception, said in (
        (None, "names no weight file"),
        (weights, "the 2 training images are not those of CIFAR-10"),
    ):
        YAML().dump({"compute": machine, "score": score | {"inception": inception}}, tmp_path / "params.yaml")
        inception_gate.main(tmp_path / "params.yaml", tmp_path / "set", tmp_path / "out" / "gate.json")
        assert said in json.loads((tmp_path / "out" / "gate.json").read_text())["not_run"]
