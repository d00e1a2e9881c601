"""The figures of deduplication and face detection, from made-up results."""

import hashlib

import pandas as pd
import pytest

from pipeline.reporting import drawing
from pipeline.reporting.dataset_figures import duplicates, faces

RADII = (0, 1, 2)


def duplicate_rows():
    rows = []
    for half in ("tune", "report"):
        for offsets in (False, True):
            for radius in RADII:
                for alteration in ("all", "jpeg75", "mirror"):
                    recall = 0.25 * (radius + 1 + offsets) * (alteration != "mirror")
                    rows.append(
                        {
                            "half": half,
                            "offsets": offsets,
                            "radius": radius,
                            "alteration": alteration,
                            "duplicate": alteration != "mirror",
                            "n_queries": 100,
                            "n_found": int(100 * recall),
                            "recall": recall if half == "report" else 0.9,
                            "recall_low": recall - 0.05,
                            "recall_high": recall + 0.05,
                            "true_pairs": int(100 * recall),
                            "false_pairs": radius,
                            "precision": 1 - radius / 100,
                            "precision_low": 0.9,
                            "precision_high": 1.0,
                            "n_removed": 50 if alteration == "all" else None,
                            "n_removed_wrongly": radius if alteration == "all" else None,
                            "chosen": radius == 1 and alteration == "all",
                            "best": radius == 1 and offsets and alteration == "all",
                        }
                    )
    return pd.DataFrame(rows)


SETTINGS = (("a", True, False), ("b", False, True), ("d", False, False), ("c", False, False))


def face_rows():
    rows = []
    for half, recall in (("train", 1.0), ("test", 0.8)):
        for setting, configured, chosen in SETTINGS:
            for group in ("all", "glasses"):
                rows.append(  # noqa: PERF401 - three loops read better
                    {
                        "half": half,
                        "setting": setting,
                        "scale_factor": 1.1,
                        "min_neighbours": 5 if setting != "b" else 3,
                        "min_size": 30 if setting == "d" else 20,
                        "configured": configured,
                        "chosen": chosen,
                        "group": group,
                        "n_true": 10,
                        "n_found": 8,
                        "n_detected": 9,
                        "recall": recall + 0.1 * chosen - 0.1 * (setting == "c"),
                        "recall_low": 0.5,
                        "recall_high": 0.95,
                        "precision": 0.9,
                        "f1": 0.85,
                    }
                )
    return pd.DataFrame(rows)


@pytest.fixture
def results(tmp_path):
    duplicate_rows().to_parquet(tmp_path / "duplicates_lsun.parquet")
    duplicate_rows().head(0).to_parquet(tmp_path / "duplicates_neardup.parquet")  # a set without truth
    face_rows().to_parquet(tmp_path / "face_accuracy.parquet")
    return tmp_path


def test_exact_codes_stand_beside_the_best_setting(results):
    metrics = duplicates(results).metrics
    assert metrics == {
        "lsun": {
            "exact": {
                "n_altered": 100, "recall_percent": 25.0, "recall_low_percent": 20.0, "recall_high_percent": 30.0,
                "precision_percent": 100.0, "wrongly_removed_percent": 0.0, "false_pairs": 0,
            },
            "best": {
                "radius": 1, "offsets": 1, "n_altered": 100, "recall_percent": 75.0, "recall_low_percent": 70.0,
                "recall_high_percent": 80.0, "precision_percent": 99.0, "wrongly_removed_percent": 2.0,
                "false_pairs": 1,
            },
        }
    }  # fmt: skip


def test_only_the_reported_half_is_shown(results):
    numbers = duplicates(results).numbers
    assert set(numbers["set"]) == {"lsun"}
    assert len(numbers) == 2 * len(RADII) * 3
    assert 0.9 not in set(numbers["recall"])


def test_every_alteration_is_named_and_mirrored_ones_are_no_duplicates(results):
    _, by_alteration = duplicates(results).figure.axes
    assert [text.get_text() for text in by_alteration.get_yticklabels()] == ["jpeg75", "mirror (no duplicate)"]
    cells = [text.get_text() for text in by_alteration.texts]
    assert cells == ["50", "75", "100", "0", "0", "0"]  # with offsets, as the best setting has them


def test_the_configured_detector_stands_beside_the_tuned_one(results):
    metrics = faces(results).metrics
    assert metrics["configured"]["recall_percent"] == 80.0
    assert metrics["chosen"]["recall_percent"] == 90.0
    assert metrics["chosen"]["precision_percent"] == 90.0
    assert metrics["plain"]["recall_percent"] == 70.0  # the usual setting that looks for the smallest faces
    groups, _ = faces(results).figure.axes
    assert [text.get_text() for text in groups.get_yticklabels()] == ["all (10)", "glasses (10)"]


@pytest.mark.parametrize("draw", [duplicates, faces])
def test_without_truth_the_figure_says_so(tmp_path, draw):
    drawn = draw(tmp_path)
    assert drawn.metrics == {"n_results": 0}
    assert "in this profile" in drawn.numbers["note"].iloc[0]


@pytest.mark.parametrize("draw", [duplicates, faces])
def test_same_results_same_bytes(results, tmp_path, draw):
    hashes = set()
    for copy in ("a.png", "b.png"):
        drawing.save(draw(results).figure, tmp_path / copy)
        hashes.add(hashlib.sha256((tmp_path / copy).read_bytes()).hexdigest())
    assert len(hashes) == 1
