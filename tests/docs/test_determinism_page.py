"""docs/determinism.md says what verify does: floors and tests that it names are there."""

import re
from pathlib import Path

import pytest

from pipeline.project import verify


@pytest.fixture(scope="module")
def page(root):
    return (root / "docs" / "determinism.md").read_text(encoding="utf-8")


def floor(table, place="*"):
    value = verify.FLOORS[table]
    return value[place] if isinstance(value, dict) else value


def test_the_floors_of_the_page_are_those_of_verify(page):
    rows = dict(re.findall(r"^\| (`[a-z0-9_`, ]+) \| ([^|]+) \|", page, flags=re.MULTILINE))
    assert rows["`toy_games`, `turing`"] == "0"
    assert floor("toy_games") == floor("turing") == 0.0
    assert rows["`dcgan_table3`"] == f"{floor('dcgan_table3'):g} %"
    assert rows["`dcgan_table1`, `dcgan_table2`"] == f"{floor('dcgan_table1'):g} %, {floor('dcgan_table2'):g} %"
    errors = floor("improved_table1"), floor("improved_table1", "*/labels_20")
    assert rows["`improved_table1`"] == f"{errors[0]:g} errors of 10,000; {errors[1]:g} with 20 labels"
    assert rows["`improved_table3`"] == f"{floor('improved_table3', '*/*_score'):g} of a score from 1 to 10"


def test_the_number_of_spreads_is_that_of_verify(page):
    assert f"*{verify.SPREADS:g} x its seed spread" in page


def test_every_file_that_the_page_names_is_there(root, page):
    named = set(re.findall(r"`((?:tests|pipeline)/[\w/]+\.py)`", page))
    named |= {f"tests/stages/{name}" for name in re.findall(r"`(test_\w+_resume\.py)`", page)}
    named.add("tests/evaluation/test_features.py")
    assert len(named) > 5
    assert [name for name in sorted(named) if not Path(root, name).is_file()] == []
