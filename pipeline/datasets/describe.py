"""What became of every input of an image set: counts by split and by reason."""

import re

import pandas as pd

from pipeline.core.store import ImageSet, read_rejects

DUPLICATE = "near-duplicate"
# with words or numbers that are not of one input
WHOLE_REASONS = ("not a JPEG, PNG or WebP image", "name is not UTF-8", "leads out of the folder", "16-bit image")


def describe(image_set: ImageSet) -> pd.DataFrame:
    """Counts of a set, one row each: ``quantity``, ``value``.

    ``in`` = ``out`` + ``rejected`` + ``duplicates``; ``out_SPLIT`` and ``rejected: REASON`` are the parts.
    In a set of crops from photos these count the crops, and ``photos`` the photos.

    Raises
    ------
    InputError
        If the set's table of rejects is missing or has other columns.
    """
    index, rejects = image_set.index, read_rejects(image_set.path)
    of_photos = {}
    if "photo" in rejects.columns:  # crops of photos: what is counted are detections, beside the photos without one
        without = rejects["score"].isna()
        of_photos = {"photos": index["source"].nunique() + int(without.sum())}
        of_photos |= {f"photos: {why}": n for why, n in _by_reason(rejects["reason"][without].map(reason_of))}
        rejects = rejects[~without]
    reason = rejects["reason"].map(reason_of)
    duplicate = reason == DUPLICATE
    counts = {
        "in": len(index) + len(rejects),
        "out": len(index),
        "rejected": int((~duplicate).sum()),
        "duplicates": int(duplicate.sum()),
    }
    counts |= {f"out_{split}": int(n) for split, n in index["split"].value_counts().sort_index().items()}
    counts |= {f"rejected: {why}": n for why, n in _by_reason(reason[~duplicate])}
    labels = index["label"][index["label"] >= 0].nunique()
    counts |= ({"labels": int(labels)} if labels else {}) | of_photos
    return pd.DataFrame({"quantity": list(counts), "value": list(counts.values())})


def _by_reason(reasons: pd.Series) -> list[tuple[str, int]]:
    return [(str(reason), int(n)) for reason, n in reasons.value_counts().sort_index().items()]


def reason_of(text: str) -> str:
    """The kind of a reason, without what is particular to one input: ``9,000 pixels, at most 100`` -> ``# pixels``."""
    if text in WHOLE_REASONS:
        return text
    kind = re.split(r"[:,;(]|\bof\b", re.sub(r"\d[\d,._]*", "#", text), maxsplit=1)[0]
    return kind.strip()
