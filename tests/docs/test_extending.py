"""docs/extending.md, walked through: each section's blocks go into a copy of the project, then its commands run.

One copy for all three sections: together they have to fit, too.
"""

from dataclasses import dataclass
from pathlib import Path

import made_checkout
import made_pages
import pytest
from ruamel.yaml import YAML

from pipeline.core.source_code import imported_files


@pytest.fixture(scope="module")
def checkout(root, tmp_path_factory):
    return made_checkout.make_checkout(root, tmp_path_factory.mktemp("extending") / "project")


@dataclass
class Section:
    """Blocks up to the commands that prove them."""

    edits: list
    script: str


@pytest.fixture(scope="module")
def sections(root):
    found, edits = {}, []
    for block in made_pages.blocks(root / "docs" / "extending.md", root):
        if block.note and block.note[0] == "run":
            found[block.note[1]] = Section(edits, block.text)
            edits = []
        else:
            edits.append(block)
    assert edits == [], "blocks after the last commands"
    return found


def apply(block, folder):
    """A new file whole, or a diff: its lines of context and `-` have to stand in the file once."""
    place = f"{block.page}:{block.line}"
    if block.note and block.note[0] == "file":
        path = folder / block.note[1]
        assert not path.exists(), f"{place}: {block.note[1]} is there already"
        path.write_text(block.text)
        return
    assert block.language == "diff", f"{place}: neither a diff nor a file"
    head, *lines = block.text.splitlines()
    assert head.startswith("--- "), f"{place}: the first line names the file"
    before = [line[1:] for line in lines if not line.startswith("+")]
    after = [line[1:] for line in lines if not line.startswith("-")]
    for name in head.removeprefix("--- ").split(", "):
        text = (folder / name).read_text().splitlines()
        starts = [at for at in range(len(text)) if text[at : at + len(before)] == before]
        assert len(starts) == 1, f"{place}: {len(starts)} places in {name} have\n" + "\n".join(before)
        text[starts[0] : starts[0] + len(before)] = after
        (folder / name).write_text("\n".join(text) + "\n")


def walk(section, folder):
    for block in section.edits:
        apply(block, folder)
    return made_checkout.run_shell(section.script, folder)


def test_a_technique(sections, checkout):
    said = walk(sections["technique"], checkout)
    assert "5 passed" in said
    assert "train.discriminator_rate" in said  # new to `dvc params diff`
    for profile in ("laptop", "paper"):
        assert "train.discriminator_rate" in (checkout / "profiles" / profile / "dvc.yaml").read_text()


def test_a_dataset(sections, checkout):
    said = walk(sections["dataset"], checkout)
    assert "3 passed" in said
    for stage in ("fetch@digits", "assemble@digits", "describe@digits"):
        assert f"Running stage '{stage}'" in said
    assert (checkout / "data/embedded/sets/digits/images.npy").is_file()
    assert (checkout / "reports/embedded/sheets/digits.png").is_file()


def test_a_table(sections, checkout):
    said = walk(sections["table"], checkout)
    assert "2 passed" in said
    assert "| xy, weight 0.1 | late_distance [distance] | extra |" in said
    assert (checkout / "reports/embedded/metrics/toy_strengths.json").is_file()
    shown = "python -m pytest tests/reporting/test_html_page.py -k 'every_row_of_its_csv and embedded'"
    assert "1 passed" in made_checkout.run_shell(shown, checkout), "the report page shows the new table"


@pytest.mark.parametrize("stage", ["fetch", "assemble", "table", "report"])
def test_the_graph_knows_what_was_added(stage, root, checkout):
    """What a stage imports since the page was followed is among its dependencies; after the three walks."""
    script = Path("stages", f"{stage}.py")
    added = set(imported_files(script, checkout)) - set(imported_files(script, root))
    graph = YAML(typ="safe").load((checkout / "dvc.yaml").read_text(encoding="utf-8"))
    body = graph["stages"][stage]
    assert added
    deps = {Path(dep) for dep in body.get("do", body)["deps"]}
    assert [path for path in added if not deps & {path, *path.parents}] == []


def test_a_block_that_no_longer_fits_is_named(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\ntwo\n")
    block = made_pages.Block("page.md", 5, "diff", "--- a.txt\n two\n+three\n", None)
    with pytest.raises(AssertionError, match=r"page\.md:5: 2 places in a\.txt have"):
        apply(block, tmp_path)
    apply(made_pages.Block("page.md", 5, "diff", "--- a.txt\n one\n-two\n+three\n", None), tmp_path)
    assert (tmp_path / "a.txt").read_text() == "one\nthree\ntwo\n"
