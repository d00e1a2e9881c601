"""NumPy's BLAS, which is loaded before a stage reads its params, works with as many threads as they say.

Products summed by another number of threads differ in their last bits: the features of K-means did, on another machine.
"""

from contextlib import nullcontext
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from pipeline.core.compute import Compute
from stages import forget_windows, inception_gate, kmeans, score

MACHINE = Compute(device="cpu", threads=2, precision="fp32")


class SeenError(Exception):
    """Ends a stage at its work; its argument is the number of threads of each BLAS."""


def work(*_arguments, **_settings):
    raise SeenError({pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"})


@pytest.mark.parametrize(
    ("stage", "module", "function", "n_paths"),
    [
        (kmeans, "kmeans", "kmeans_features", 2),
        (score, "scoring", "score_run", 8),
        (inception_gate, "scoring", "run_gate", 2),
        (forget_windows, "forgetting", "forget_windows", 7),
    ],
)
def test_threads_are_those_of_the_params(monkeypatch, stage, module, function, n_paths):
    monkeypatch.setattr(
        stage, "params", MagicMock(load=lambda _, section, **__: MACHINE if section is Compute else MagicMock())
    )
    monkeypatch.setattr(stage.compute, "set_up", lambda _: None)
    for name in (
        "scratch",
        "open_set",
        "read_classifier",
        "frozen_generator",
        "check_size",
        "read_boxes",
        "read_detectors",
    ):
        if hasattr(stage, name):
            monkeypatch.setattr(
                stage, name, MagicMock(return_value=nullcontext(Path())) if name == "scratch" else MagicMock()
            )
    for name in ("read_gate", "task_of"):
        if hasattr(getattr(stage, module), name):
            monkeypatch.setattr(getattr(stage, module), name, MagicMock())
    monkeypatch.setattr(getattr(stage, module), function, work)
    paths = [Path(f"data/{number}") for number in range(n_paths)]
    arguments = [Path("params.yaml"), *(["is_ours"] if stage is score else []), *paths]
    with threadpool_limits(3, user_api="blas"), pytest.raises(SeenError) as seen:  # as on a machine of three cores
        stage.main(*arguments)
    assert seen.value.args == ({MACHINE.threads},)
