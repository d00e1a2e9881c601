"""claims.csv and claims.md: what is written is what is read, whatever was or was not tested."""

import pandas as pd
import pytest

from pipeline.claims import table
from pipeline.claims.book import IntervalRule, MeanRule
from pipeline.claims.table import Row
from pipeline.core.errors import InputError

TESTED = Row(
    claim="rate",
    paper="dcgan",
    section="4",
    sentence="A high rate is worse | much worse.",
    ablation="train.rate=0.9; train.epochs=2",
    targets="train@a",
    metric="final_diversity(run=a)",
    unit="share",
    base=0.75,
    base_spread=0.125,
    ablated=0.5,
    ablated_spread=0.0625,
    effect=-0.25,
    effect_spread=0.1,
    n_seeds=3,
    rule="lower",
    verdict="supported",
    note="",
)
EMPTY = dict.fromkeys(("base", "base_spread", "ablated", "ablated_spread", "effect", "effect_spread", "n_seeds"))
UNTESTED = Row(
    **{
        **vars(TESTED),
        **EMPTY,
        "claim": "people",
        "paper": "improved",
        "verdict": "not tested",
        "metric": "",
        "note": "nobody\nwas asked",
    }
)


def test_what_is_written_is_read(tmp_path):
    table.write([TESTED, UNTESTED], tmp_path)
    found = table.read(tmp_path / "tables/claims.csv")
    pd.testing.assert_frame_equal(found, table.to_frame([TESTED, UNTESTED]), check_dtype=False)
    assert found["note"].tolist() == ["", "nobody\nwas asked"]
    assert found["n_seeds"].isna().tolist() == [False, True]


def test_columns_are_those_that_other_pages_read(tmp_path):
    table.write_header(tmp_path)
    header = (tmp_path / "tables/claims.csv").read_text()
    assert header == (
        "claim,paper,section,sentence,ablation,targets,metric,unit,base,base_spread,ablated,ablated_spread,effect,"
        "effect_spread,n_seeds,rule,verdict,note\n"
    )
    assert table.read(tmp_path / "tables/claims.csv").empty


def test_a_table_of_another_form_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"claims\.csv: missing; `make ablations` writes it"):
        table.read(tmp_path / "claims.csv")
    (tmp_path / "claims.csv").write_text("claim,verdict\n")
    with pytest.raises(InputError, match="found columns claim, verdict; expected claim, paper"):
        table.read(tmp_path / "claims.csv")


def test_every_row_of_the_markdown_has_all_cells(tmp_path):
    lines = [line for line in table.markdown([TESTED, UNTESTED]).splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {13}
    text = "\n".join(lines)
    assert "| -0.25 ± 0.1 |" in text
    assert "**supported**" in text
    assert "worse / much worse" in text
    assert "nobody was asked" in text


def test_a_rule_says_its_numbers():
    mean = MeanRule(name="mean", confidence=0.95, least_pairs=3)
    assert table.rule_text(mean, "higher", 0.02, "nats") == "higher, at least 0.02 nats; one-sided t, 95 %, 3 or more"
    assert table.rule_text(IntervalRule(name="intervals"), "lower", 0.0, "share") == "lower; intervals apart"
