"""Every command that README, CONTRIBUTING and docs/ show is one that exists: its program, targets, options and params.

Nothing is run here (test_run_commands.py runs what tiny params allow), so hardware, network and real data are not asked
for. A program that is not known here fails with file and line.
"""

import functools
import importlib.util
import re
from pathlib import Path

import made_pages
import pytest
import typer
from dvc import cli as dvc_cli
from dvc.cli import DvcParserError
from made_pages import Command
from ruamel.yaml import YAML
from typer.main import get_command

from pipeline.project import cli, lock

ROOT = Path(__file__).resolve().parents[2]
PAGES = made_pages.pages(ROOT)
COMMANDS = [
    command
    for page in PAGES
    for block in made_pages.blocks(page, ROOT)
    if block.language in made_pages.SHELL and block.note in (None, ("run", "tiny"))  # test_extending.py runs the others
    for command in made_pages.commands(block)
]
# programs of the system, of which only the name is looked at
SYSTEM = {
    *(
        "git",
        "gh",
        "export",
        "unset",
        "source",
        ".",
        "set",
        "trap",
        "wait",
        "sleep",
        "kill",
        "cd",
        "ls",
        "cp",
        "mv",
        "rm",
    ),
    *("mkdir", "touch", "chmod", "cat", "echo", "printf", "sed", "grep", "head", "tail", "wc", "tar", "curl", "ssh"),
    *(
        "rsync",
        "sbatch",
        "srun",
        "squeue",
        "scancel",
        "module",
        "nvidia-smi",
        "apt-get",
        "pre-commit",
        "ruff",
        "pyright",
    ),
}
UsageError = typer.BadParameter.__mro__[1]  # of the click that typer brings


class NotThereError(Exception):
    """What a page shows and the project does not have."""


def check(words):
    """Raise NotThereError where this command would not start."""
    program, arguments = Path(words[0]).name, list(words[1:])
    if program in SYSTEM:
        return
    if program not in CHECKS:
        message = f"the program '{program}' is not known here; add it to SYSTEM if it is no part of the project"
        raise NotThereError(message)
    CHECKS[program](arguments)


def check_make(arguments):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, flags=re.MULTILINE))
    variables = set(re.findall(r"\$\(([A-Z_]+)\)|^([A-Z_]+) *\??=", makefile, flags=re.MULTILINE))
    known = {name for pair in variables for name in pair if name}
    for word in arguments:
        name = word.split("=")[0]
        if "=" in word and name not in known:
            message = f"Makefile has no variable {name}"
            raise NotThereError(message)
        if "=" not in word and not word.startswith("-") and word not in targets:
            message = f"Makefile has no target {word}"
            raise NotThereError(message)


def check_gan_tables(arguments):
    """Parsed by the command line's own parser, down to the types of the arguments; nothing is called."""
    command, name, context = get_command(cli.app), "gan-tables", None
    if arguments and arguments[0] in ("--install-completion", "--show-completion"):  # parsing them would do it
        if not any(arguments[0] in parameter.opts for parameter in command.params):
            message = f"gan-tables has no {arguments[0]}"
            raise NotThereError(message)
        return
    try:
        while True:
            context = command.make_context(name, arguments, parent=context)
            if not hasattr(command, "resolve_command"):
                return
            rest = [*context._protected_args, *context.args]
            if not rest:
                return
            name, command, arguments = command.resolve_command(context, rest)
    except typer.Exit:  # --help
        return
    except UsageError as error:
        raise NotThereError(error.format_message()) from error


def check_dvc(arguments):
    """Parsed by DVC's own parser; params of -S and stages named as targets have to exist."""
    try:
        parsed = dvc_cli.parse_args(arguments)
    except SystemExit:  # --help, --version
        return
    except DvcParserError as error:
        message = "dvc does not take these arguments"
        raise NotThereError(message) from error
    for override in getattr(parsed, "set_param", None) or []:
        check_override(override)
    if parsed.cmd in ("repro", "status", "freeze", "unfreeze") or arguments[:2] in (["exp", "run"], ["stage", "list"]):
        for target in getattr(parsed, "targets", None) or []:
            check_target(target)


def check_override(override):
    """``[FILE:]KEY=VALUE``; ``+KEY=VALUE`` adds one."""
    key = override.split("=", maxsplit=1)[0]
    file, _, key = key.rpartition(":")
    if key.startswith("+"):
        return
    node = params_of(file or "params.yaml")
    for part in key.removeprefix("~").split("."):
        if not isinstance(node, dict) or part not in node:
            message = f"{file or 'params.yaml'} has no key {key}: '{part}' is missing"
            raise NotThereError(message)
        node = node[part]


def params_of(file):
    if not (ROOT / file).is_file():
        message = f"there is no params file {file}"
        raise NotThereError(message)
    return YAML(typ="safe").load((ROOT / file).read_text(encoding="utf-8"))


def check_target(target):
    """A stage, a group of stages, a dvc.yaml, a stage of one, or an output."""
    dvc_yaml, _, stage = target.rpartition(":") if ":" in target else ("dvc.yaml", "", target)
    if target.endswith((".yaml", ".lock")):
        dvc_yaml, stage = target, ""
    if not (ROOT / dvc_yaml).is_file():
        message = f"there is no {dvc_yaml}"
        raise NotThereError(message)
    names = stages_of_every_profile()
    if stage and stage not in names and stage not in {name.split("@")[0] for name in names} and "/" not in stage:
        message = f"{dvc_yaml} has no stage {stage}"
        raise NotThereError(message)


@functools.cache
def stages_of_every_profile():
    """A test of the twins holds that all have the same."""
    return lock.stage_names(ROOT, Path("dvc.yaml"))


def check_python(arguments):
    if not arguments:
        return
    if arguments[0] == "-m":
        module = arguments[1]
        ours = Path(*module.split("."))
        found = (
            any((ROOT / path).exists() for path in (ours.with_suffix(".py"), ours))
            if ours.parts[0] in ("pipeline", "stages", "benchmarks", "tests")
            else importlib.util.find_spec(module) is not None
        )
        if not found:
            message = f"there is no module {module}"
            raise NotThereError(message)
        if module in ("pytest", "dvc"):
            CHECKS[module](arguments[2:])
    elif not arguments[0].startswith("-") and not (ROOT / arguments[0]).is_file():
        message = f"there is no script {arguments[0]}"
        raise NotThereError(message)


def check_pytest(arguments):
    for word in arguments:
        if word.startswith("tests") and not (ROOT / word.split("::")[0]).exists() and word not in made_by_a_page():
            message = f"there is no {word}"
            raise NotThereError(message)


def made_by_a_page():
    """Files that a page tells its reader to write."""
    return {
        block.note[1]
        for page in PAGES
        for block in made_pages.blocks(page, ROOT)
        if block.note and block.note[0] == "file"
    }


def check_torchrun(arguments):
    if "python" in arguments and "--no-python" not in arguments:
        message = "torchrun needs --no-python where it starts `python`"
        raise NotThereError(message)


def check_pip(arguments):
    if not arguments or arguments[0] not in ("install", "list", "freeze", "uninstall", "show"):
        message = f"pip has no command {' '.join(arguments[:1])}"
        raise NotThereError(message)


CHECKS = {
    "make": check_make,
    "gan-tables": check_gan_tables,
    "dvc": check_dvc,
    "python": check_python,
    "python3": check_python,
    "pytest": check_pytest,
    "torchrun": check_torchrun,
    "pip": check_pip,
}


def problem(command):
    try:
        check(command.words)
    except NotThereError as error:
        return f"{command}: {error}"
    return None


@pytest.mark.parametrize("page", [str(page.relative_to(ROOT)) for page in PAGES])
def test_every_command_of_a_page_exists(page):
    problems = filter(None, (problem(command) for command in COMMANDS if command.page == page))
    assert "\n".join(problems) == ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_stands_where_it_is_checked(page):
    """In a fence that names its shell: commands in other blocks would be checked by nobody."""
    shown = re.compile(r" *(\$ )?(make|dvc|gan-tables|python|git) ")
    blocks = made_pages.blocks(page, ROOT)
    inside = {block.line + i for block in blocks for i in range(block.text.count("\n"))}
    lines = enumerate(page.read_text(encoding="utf-8").splitlines(), start=1)
    wrong = [number for number, line in lines if number not in inside and shown.match(line) and line.startswith("    ")]
    wrong += [
        block.line
        for block in blocks
        if block.language not in (*made_pages.SHELL, "yaml", "diff", "python") and shown.match(block.text)
    ]
    assert not wrong, f"{page.name}: commands in lines {wrong} that no test reads; write ```sh or ```console above"


def test_the_pages_have_commands():
    """A parser that finds nothing would pass everything."""
    programs = {Path(command.words[0]).name for command in COMMANDS}
    assert {"make", "dvc", "gan-tables"} <= programs
    assert ("make", "repro") in {command.words for command in COMMANDS if command.page == "README.md"}


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_commands_in_the_running_text_exist(page):
    """`make verify`, `gan-tables turing serve`: target and command, if not all arguments."""
    problems = []
    for place, span in made_pages.inline_commands(page, ROOT):
        words = span.split()
        if words[0] == "make" and len(words) > 1 and re.fullmatch(r"[a-z-]+", words[1]):
            problems.append(problem(Command(place, 0, ("make", words[1]))))
        if words[0] == "gan-tables" and len(words) > 1:
            problems.append(group_problem(place, words[1:]))
    assert "\n".join(filter(None, problems)) == ""


def group_problem(place, words):
    """Of a `gan-tables ...` without its arguments: do its commands and options exist?"""
    command, rest = get_command(cli.app), list(words)
    while rest and hasattr(command, "commands"):
        if rest[0] not in command.commands:
            given = {option for parameter in command.params for option in parameter.opts} | {"--help"}
            return None if rest[0] in given else f"{place}: gan-tables has no command {' '.join(words)}"
        command = command.commands[rest.pop(0)]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    options = [word.split("=")[0] for word in rest if re.fullmatch(r"--?[a-z][a-z-]*(=.*)?", word)]
    wrong = [option for option in options if option not in known | {"--help"}]
    return f"{place}: `gan-tables {' '.join(words)}` has no option {', '.join(wrong)}" if wrong else None


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("make repro   # all", [("make", "repro")]),
        ("dvc a && dvc b; dvc c | head -3", [("dvc", "a"), ("dvc", "b"), ("dvc", "c"), ("head", "-3")]),
        ('A=1 B="x y" dvc repro 2>&1 > log.txt', [("dvc", "repro")]),
        ("for n in 1 2; do make $n; done", [("make", "$n")]),
        ("nice -n 5 dvc gc -w", [("dvc", "gc", "-w")]),
        ("git log $(git merge-base a b)..b", [("git", "merge-base", "a", "b"), ("git", "log", "SUBSTITUTED..b")]),
        ("dvc exp run -S 'seeds=[1],[2]' a@b", [("dvc", "exp", "run", "-S", "seeds=[1],[2]", "a@b")]),
    ],
)
def test_a_line_is_split_as_a_shell_does(line, expected):
    assert made_pages.simple_commands(line) == expected


def test_blocks_are_found_with_their_lines(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "text\n```sh\ncat <<EOF > x\nrm all\nEOF\nmake \\\n  test\n```\n"
        "\n<!-- run: tiny -->\n\n```console\n$ make help\nout\n```\n"
    )
    first, second = made_pages.blocks(page, tmp_path)
    assert [(command.line, command.words) for command in made_pages.commands(first)] == [
        (3, ("cat",)),
        (6, ("make", "test")),
    ]
    assert (first.note, second.note) == (None, ("run", "tiny"))
    assert [command.words for command in made_pages.commands(second)] == [("make", "help")]
    page.write_text("```sh\nmake\n")
    with pytest.raises(AssertionError, match=r"page.md:2: the block is not closed"):
        made_pages.blocks(page, tmp_path)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("make everything", "no target everything"),
        ("make repro SPEED=1", "no variable SPEED"),
        ("gan-tables fly", "No such command"),
        ("gan-tables turing serve", "Missing argument"),
        ("gan-tables turing serve embedded --port many", "--port"),
        ("gan-tables verify-lock --fast", "No such option"),
        ("dvc exp run -S train.beta_one=0.9", "'beta_one' is missing"),
        ("dvc exp run -S profiles/desk/params.yaml:train.beta1=0.9", "no params file profiles/desk"),
        ("dvc repro train@dcgan_lsum", "no stage train@dcgan_lsum"),
        ("dvc repro profiles/desk/dvc.yaml", "no profiles/desk/dvc.yaml"),
        ("dvc repro --fast", "does not take"),
        ("python -m pipeline.project.fly", "no module"),
        ("python fly.py", "no script"),
        ("python -m pytest tests/test_fly.py", "no tests/test_fly.py"),
        ("torchrun --nproc-per-node 4 python -m stages.train", "--no-python"),
        ("fly away", "'fly' is not known here"),
    ],
)
def test_what_does_not_exist_is_refused_with_its_place(line, said):
    (words,) = made_pages.simple_commands(line)
    found = problem(Command("docs/page.md", 7, words))
    assert found is not None
    assert found.startswith(f"docs/page.md:7: {words[0]}")
    assert said in found


@pytest.mark.parametrize(
    "line",
    [
        "make repro PYTHON=python3.12",
        "gan-tables --help",
        "gan-tables turing serve embedded --port 0",
        "dvc exp run --queue -S train.beta1=0.5,0.9 -S +train.extra=1 train",
        "dvc exp run -S profiles/laptop/params.yaml:train.beta1=0.9 profiles/laptop/dvc.yaml:train@dcgan_svhn",
        "dvc --wait-for-lock repro profiles/paper/dvc.yaml:table@dcgan_table3",
        ".venv/bin/dvc status dvc.yaml",
    ],
)
def test_what_exists_passes(line):
    (words,) = made_pages.simple_commands(line)
    assert problem(Command("docs/page.md", 1, words)) is None


@pytest.mark.parametrize(
    ("words", "wrong"),
    [(["turing", "serve"], False), (["fly"], True), (["turing", "fly"], True), (["verify-lock", "--fast"], True)],
)
def test_a_command_without_its_arguments_is_looked_up(words, wrong):
    assert (group_problem("page:1", words) is not None) == wrong
