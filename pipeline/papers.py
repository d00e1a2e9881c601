"""Published numbers, each with its table and unit. ``params.yaml`` says what we run, this file what was printed."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Published:
    """One printed number.

    ``kind``: ``ours`` = the paper's authors produced it and we regenerate it; ``published`` = they quoted it.
    """

    row: str
    column: str
    value: float
    spread: float | None
    unit: str
    kind: Literal["ours", "published"]
    source: str


def _table3(row: str, column: str, value: float, kind: Literal["ours", "published"], source: str) -> Published:
    return Published(row=row, column=column, value=value, spread=None, unit="percent_error", kind=kind, source=source)


AT_50K, AT_10M = "test_error_50k_samples", "test_error_10m_samples"
DCGAN_TABLE3 = (
    _table3("AlignMNIST", AT_10M, 1.4, "published", "Hauberg et al., quoted in DCGAN, Table 3"),
    _table3("InfiMNIST", AT_10M, 2.6, "published", "Loosli et al., quoted in DCGAN, Table 3"),
    _table3("Real Data", AT_50K, 3.1, "ours", "DCGAN, Table 3"),
    _table3("GAN", AT_50K, 6.28, "ours", "DCGAN, Table 3"),
    _table3("GAN", AT_10M, 5.65, "ours", "DCGAN, Table 3"),
    _table3("DCGAN (ours)", AT_50K, 2.98, "ours", "DCGAN, Table 3"),
    _table3("DCGAN (ours)", AT_10M, 1.48, "ours", "DCGAN, Table 3"),
)


def _dataset(row: str, column: str, value: float, unit: str, source: str) -> Published:
    return Published(row=row, column=column, value=value, spread=None, unit=unit, kind="ours", source=source)


LSUN, LSUN_DEDUP, FACES = "LSUN bedrooms", "LSUN bedrooms, deduplicated", "Faces"
# In the running text of DCGAN, section 4, as "a little over 3 million", "approximately 275,000", "less than 1 in 100".
DATASETS = (
    _dataset(LSUN, "out_train", 3_000_000, "images", "DCGAN, section 4.1"),
    _dataset(LSUN_DEDUP, "duplicates", 275_000, "images", "DCGAN, section 4.1.1"),
    _dataset(LSUN_DEDUP, "false_positives", 1.0, "percent", "DCGAN, section 4.1.1: below 1 in 100, judged by eye"),
    _dataset(FACES, "photos", 3_000_000, "photos", "DCGAN, section 4.2"),
    _dataset(FACES, "out", 350_000, "images", "DCGAN, section 4.2"),
)
