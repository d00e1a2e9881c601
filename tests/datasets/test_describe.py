"""Counts of an image set: every input is accounted for."""

import numpy as np
import pandas as pd
import pytest

from pipeline.core.errors import InputError
from pipeline.core.store import no_rejects, open_set, write_set
from pipeline.datasets.describe import WHOLE_REASONS, describe, reason_of


def image_set(folder, rejects, splits=("train", "train", "test"), labels=(0, 3, -1)):
    index = pd.DataFrame(
        {"key": [f"k{row}" for row in range(len(splits))], "split": splits, "label": labels, "source": "made"}
    )
    write_set(folder / "set", np.zeros((len(splits), 4, 4, 3), dtype=np.uint8), index, rejects)
    return open_set(folder / "set")


def counts(folder, rejects, **kwargs):
    found = describe(image_set(folder, rejects, **kwargs))
    return dict(zip(found["quantity"], found["value"], strict=True))


def test_every_input_is_counted_once(tmp_path):
    rejects = pd.DataFrame(
        {
            "key": list("abcde"),
            "reason": [
                "truncated or damaged: 12 of 40 bytes",
                "truncated or damaged: no end",
                "near-duplicate of k0",
                "near-duplicate of k1",
                "empty file",
            ],
        }
    )
    found = counts(tmp_path, rejects)
    assert found["in"] == 8
    assert found["in"] == found["out"] + found["rejected"] + found["duplicates"]
    assert (found["out"], found["rejected"], found["duplicates"]) == (3, 3, 2)
    assert (found["out_train"], found["out_test"]) == (2, 1)
    assert (found["rejected: truncated or damaged"], found["rejected: empty file"]) == (2, 1)
    assert sum(n for name, n in found.items() if name.startswith("rejected:")) == found["rejected"]
    assert found["labels"] == 2


def test_a_clean_set(tmp_path):
    found = counts(tmp_path, no_rejects())
    assert (found["in"], found["out"], found["rejected"], found["duplicates"]) == (3, 3, 0, 0)
    assert not [name for name in found if name.startswith("rejected:")]


def test_of_crops_the_detections_and_the_photos_are_counted_apart(tmp_path):
    rejects = pd.DataFrame(
        {
            "key": ["p1", "p2", "p3#0", "p3#1"],
            "reason": ["no face found", "truncated or damaged: 9", "smaller than 64 px", "smaller than 64 px"],
            "photo": ["p1", "p2", "p3", "p3"],
            "score": [np.nan, np.nan, 3.0, 2.0],
        }
    )
    found = counts(tmp_path, rejects)  # three crops of one photo
    assert (found["in"], found["out"], found["rejected"]) == (5, 3, 2)
    assert found["rejected: smaller than # px"] == 2
    assert found["photos"] == 3
    assert (found["photos: no face found"], found["photos: truncated or damaged"]) == (1, 1)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("near-duplicate of lsun/000", "near-duplicate"),
        ("49,000,000 pixels, at most 1,000", "# pixels"),
        ("smaller than 64 px", "smaller than # px"),
        ("animated (12 frames)", "animated"),
        ("truncated or damaged: broken data stream", "truncated or damaged"),
        *((reason, reason) for reason in WHOLE_REASONS),
    ],
)
def test_reasons_are_gathered_by_kind(text, kind):
    assert reason_of(text) == kind


def test_a_set_without_its_rejects(tmp_path):
    opened = image_set(tmp_path, no_rejects())
    (opened.path / "rejects.parquet").unlink()
    with pytest.raises(InputError, match=r"rejects.parquet: not a whole parquet file .*run dvc repro"):
        describe(opened)


def test_rejects_without_a_reason(tmp_path):
    opened = image_set(tmp_path, no_rejects())
    pd.DataFrame({"key": ["a"]}).to_parquet(opened.path / "rejects.parquet")
    with pytest.raises(InputError, match="no column reason; expected key, reason"):
        describe(opened)
