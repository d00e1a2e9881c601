"""Commands of README and docs/ that tiny params allow are run, in a copy of the project: blocks under the comment
`run: tiny`, and the ones that are listed here."""

import made_checkout
import made_pages
import pytest

LISTED = {  # what must be shown somewhere -> what it has to say
    "make help": "make repro",
    "gan-tables --help": "verify-lock",
    "gan-tables turing serve --help": "--simulated",
    "dvc stage list dvc.yaml": "toy_games ",
}


@pytest.fixture(scope="module")
def checkout(root, tmp_path_factory):
    return made_checkout.make_checkout(root, tmp_path_factory.mktemp("commands") / "project")


@pytest.fixture(scope="module")
def tiny_blocks(root):
    every = [block for page in made_pages.pages(root) for block in made_pages.blocks(page, root)]
    return [block for block in every if block.note == ("run", "tiny")]


def test_blocks_marked_as_tiny_run(tiny_blocks, checkout):
    said = {f"{block.page}:{block.line}": made_checkout.run_shell(block.text, checkout) for block in tiny_blocks}
    (experiment,) = [output for place, output in said.items() if place.startswith("docs/experiments.md")]
    assert "Ran experiment(s): short" in experiment
    assert "toy_games.strength" in experiment  # params diff
    assert "| reports/embedded/metrics/toy_games.json |" in experiment  # metrics diff


@pytest.mark.parametrize("command", LISTED)
def test_a_listed_command_runs(command, checkout):
    assert LISTED[command] in made_checkout.run_shell(command, checkout)
