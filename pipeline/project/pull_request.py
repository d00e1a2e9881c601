"""What a pull request changes in params, tables, figures and claims: a comment in Markdown, from two Git revisions.

Needs neither data nor cache nor network, and works in a shallow clone that has the base's commit. What cannot be
compared is said in a sentence, and the rest of the comment is made.
"""

import io
import os
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.core.errors import InputError
from pipeline.core.files import write_text
from pipeline.project import lock, pull_request_params, pull_request_pictures, pull_request_sides, pull_request_tables
from pipeline.project.git import git
from pipeline.project.pull_request_sections import Block, Section, code, fit, folded, length, warning
from pipeline.project.pull_request_sides import Pair

OUTPUT = Path(".work/pull-request/comment.md")
LIMIT = 65_000  # characters; GitHub refuses a comment of more than 65,536
TITLE = "# What this changes in the results"


def write_comment(base: str, output: Path | None = None) -> Path:
    """Compare the working tree with the commit at which it left ``base``.

    Parameters
    ----------
    base : a branch, tag or commit, such as ``origin/main``
    output : the comment, short enough for GitHub; ``.work/pull-request/comment.md`` if None. Beside it
        ``<name>-full.md`` is the whole comment, and ``<name>-files/`` holds the curves and, where they cannot be
        linked, the figures.

    Raises
    ------
    InputError
        If this is no Git checkout, or the output cannot be written. A base that is unknown is said in the comment.
    """
    root = Path()
    output = output or OUTPUT
    if output.is_dir():
        message = f"{output}: is a folder; name the file that the comment is written to"
        raise InputError(message)
    pair = pull_request_sides.for_pull_request(root, base)
    files = output.with_name(f"{output.stem}-files")
    pull_request_pictures.clear(files)
    sections = _sections(pair, files)
    full = output.with_name(f"{output.stem}-full.md")
    write_text(full, _comment(pair, sections, None, ""))
    write_text(output, _comment(pair, sections, LIMIT, _whole(full)))
    for problem in [*pair.problems, *(problem for section in sections for problem in section.problems)]:
        print(f"note: {problem}", file=sys.stderr)
    return output


def compare(base: str, head: str) -> None:
    """Print the comment of two revisions; curves are named, not drawn.

    Raises
    ------
    InputError
        If a revision is unknown.
    """
    pair = pull_request_sides.of_revisions(Path(), base, head)
    print(_comment(pair, _sections(pair, None), None, ""), end="")


def _sections(pair: Pair, files: Path | None) -> list[Section]:
    with pull_request_pictures.drawing(pair, files) as process:
        lock_section = _lock(pair)
        return [
            lock_section,
            pull_request_params.section(pair),
            pull_request_tables.tables(pair),
            pull_request_tables.claims(pair),
            pull_request_tables.metrics(pair),
            pull_request_pictures.figures(pair, files),
            pull_request_pictures.curves(pair, process, files),
        ]


def _comment(pair: Pair, sections: list[Section], limit: int | None, whole: str) -> str:
    base = code(pair.base.short) if pair.base else "unknown"
    first = [TITLE, "", f"Base {base}, head {code(pair.head.short)}."]
    first += ["", *(f"> {note}  " for note in pair.notes)] if pair.notes else []
    first += ["", *(line for problem in pair.problems for line in (warning(problem), ""))]
    first += ["| | |", "| --- | --- |", *(f"| {section.title} | {section.summary} |" for section in sections), ""]
    if limit is None:
        return "\n".join([*first, *(line for section in sections for line in section.lines())])
    return "\n".join([*first, *fit(sections, limit - length(first), whole)])


def _whole(full: Path) -> str:
    """Where the reader finds what was cut."""
    repository, run = os.environ.get("GITHUB_REPOSITORY"), os.environ.get("GITHUB_RUN_ID")
    if repository and run:
        return (
            f"the whole is {full.name} in the files of [this run](https://github.com/{repository}/actions/runs/{run})"
        )
    return f"the whole is {full.name}"


def _lock(pair: Pair) -> Section:
    """Whether dvc.lock is what the embedded graph asks for."""
    found = Section("Lock", "")
    try:
        with _checkout(pair) as root:
            report = lock.verify_lock(root)
    except InputError as error:
        found.summary = "**not readable**"
        found.problems.append(f"dvc.lock of head: {' '.join(str(error).split())}")
        return found
    found.summary = "up to date" if report.passed else "**not up to date**: run `make repro` and commit what changes"
    for head, problems in _by_profile(report.lines).items():
        why = head.startswith("embedded")  # of the others `make verify-lock` says it: they may be stale
        rows = [f"- {code(line, longest=400)}" for line in problems] if why else _names(problems)
        found.blocks.append(folded(head, rows) if rows else Block([head]))
    return found


def _by_profile(lines: list[str]) -> dict[str, list[str]]:
    """``embedded: 158 of 158 stages up to date`` -> what is said of single stages."""
    by_profile: dict[str, list[str]] = {}
    for line in lines:
        if line.startswith("  ") and by_profile:
            by_profile[list(by_profile)[-1]].append(line.strip())
        elif not line.startswith("error:"):
            by_profile[line] = []
    return by_profile


def _names(problems: list[str]) -> list[str]:
    """Of each kind of problem the stages that have it."""
    by_kind: dict[str, list[str]] = {}
    for line in problems:
        stage, _, said = line.partition(": ")
        kind, stages = (stage, said) if stage == "never run" else (said.partition(":")[0], stage)
        by_kind.setdefault(kind, []).append(stages)
    return [f"- {kind}: {code(', '.join(stages), longest=4000)}" for kind, stages in by_kind.items()]


@contextmanager
def _checkout(pair: Pair) -> Iterator[Path]:
    """Head's files as a checkout; for another revision than the one that is checked out, a temporary one."""
    if pair.head_is_checkout:
        yield pair.head.root
        return
    with tempfile.TemporaryDirectory(prefix="gan-tables-compare-") as name:
        root = Path(name).resolve() / "project"
        archive = git("archive", "--format=zip", pair.head.commit, root=pair.head.root)
        with zipfile.ZipFile(io.BytesIO(archive)) as packed:
            packed.extractall(root)
        git("init", "--quiet", root=root)  # DVC asks for a repository
        with _site_cache(Path(name) / "site"):
            yield root


@contextmanager
def _site_cache(folder: Path) -> Iterator[None]:
    """DVC keeps hashes of each checkout outside it: those of a temporary one go where it goes."""
    before = os.environ.get("DVC_SITE_CACHE_DIR")
    os.environ["DVC_SITE_CACHE_DIR"] = str(folder)
    try:
        yield
    finally:
        os.environ.pop("DVC_SITE_CACHE_DIR")
        if before is not None:
            os.environ["DVC_SITE_CACHE_DIR"] = before
