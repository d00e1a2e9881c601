"""Changed figures side by side, and changed curves drawn offline."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pipeline.core.errors import InputError
from pipeline.core.files import whole_file
from pipeline.project.git import environment
from pipeline.project.pull_request_sections import Block, Section, code, count, folded
from pipeline.project.pull_request_sides import Pair, Side

SHOWN = 6  # pairs of pictures of a profile that are seen without a click
PICTURES = (".png", ".webp")
VEGA_LITE = "5.20"  # what vl-convert draws DVC's templates (version 5) with
REPOSITORY = "GITHUB_REPOSITORY"


def clear(files: Path) -> None:
    """Remove the pictures of an earlier comment."""
    for folder in ("figures", "curves"):
        shutil.rmtree(files / folder, ignore_errors=True)


def figures(pair: Pair, files: Path | None) -> Section:
    """Every picture in Git whose bytes changed: base beside head.

    On GitHub both are linked by commit; elsewhere they are extracted into ``files``, or only named where there is none.
    """
    found = Section("Figures", "not compared" if pair.base is None else "")
    if pair.base is None:
        return found
    changed = [path for folder in ("figures", "sheets") for path in pair.changed(under=folder, suffixes=PICTURES)]
    found.summary = f"{len(changed)} changed" if changed else "unchanged"
    by_profile: dict[str, list[str]] = {}
    for path in sorted(changed):
        by_profile.setdefault(path.split("/")[1], []).append(path)
    for profile, paths in by_profile.items():
        rows = [_row(pair, path, files) for path in paths]
        head = ["| | base | head |", "| --- | --- | --- |"]
        found.blocks.append(Block(rows[:SHOWN], [f"**{profile}: {count(len(rows), 'figure')} changed**", "", *head]))
        if rows[SHOWN:]:
            found.blocks.append(folded(f"{profile}: {len(rows) - SHOWN} more", rows[SHOWN:], head))
    return found


def _row(pair: Pair, path: str, files: Path | None) -> str:
    name = Path(path).stem
    cells = [_picture(side, path, files, where) for side, where in ((pair.base, "base"), (pair.head, "head"))]
    return f"| {code(name)} | {' | '.join(cells)} |"


def _picture(side: Side | None, path: str, files: Path | None, where: str) -> str:
    if side is None or path not in side.blobs:
        return "*not there*"
    repository = os.environ.get(REPOSITORY, "")
    if repository and path not in side.uncommitted:
        return _image(f"{where}: {path}", f"https://github.com/{repository}/blob/{side.commit}/{quote(path)}?raw=true")
    if files is None:
        return code(f"{side.short}:{path}")
    copy = files / "figures" / where / Path(path).relative_to("reports")
    with whole_file(copy) as partial:
        partial.write_bytes(side.read(path) or b"")
    return _image(f"{where}: {path}", quote(copy.relative_to(files.parent).as_posix()))


def _image(what: str, address: str) -> str:
    return f"![{what}]({address})"


@contextmanager
def drawing(pair: Pair, files: Path | None) -> "Iterator[subprocess.Popen[str] | None]":
    """Let DVC collect the curves while other sections are made; None where no curve changed or nothing is drawn."""
    if pair.base is None or files is None or not _changed_files(pair):
        yield None
        return
    revisions = [pair.base.commit, *([] if pair.head_is_checkout else [pair.head.commit])]
    command = [sys.executable, "-m", "dvc", "plots", "diff", *revisions, "--json"]
    # with CI set, DVC does not ask for newer versions of itself
    env = environment() | {"DVC_NO_ANALYTICS": "1", "CI": "1"}
    with subprocess.Popen(
        command, cwd=pair.head.root, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()  # nothing happens if it has ended


def curves(pair: Pair, process: "subprocess.Popen[str] | None", files: Path | None) -> Section:
    """The curves of dvc.yaml whose points changed, base and head in one picture each."""
    found = Section("Curves", "not compared" if pair.base is None else "unchanged")
    changed = _changed_files(pair)
    if not changed:
        return found
    found.summary = f"{count(len(changed), 'file')} changed"
    names = [f"- {code(path)}" for path in changed]
    if process is None or files is None:
        found.blocks.append(folded("Changed files (`make pr` draws them)", names))
        return found
    drawn: list[Path] = []
    try:
        collected = _collected(process)
        found.problems += _not_collected(collected.get("errors", []), pair)
        drawn, problems = _draw(_plots(collected["data"], pair), files / "curves")
        found.problems += problems
    except InputError as error:
        found.problems.append(str(error))
    found.summary += f", {count(len(drawn), 'curve')} drawn"
    if not drawn:
        found.blocks.append(folded("Changed files", names))
    elif os.environ.get(REPOSITORY):  # pictures of a run's files cannot be shown in a comment
        rows = [f"- {code(path.name)}" for path in drawn]
        found.blocks.append(folded("Drawn in the files of this run, folder <code>curves</code>", rows))
    else:
        rows = [_image(path.stem, quote(path.relative_to(files.parent).as_posix())) for path in drawn]
        found.blocks.append(folded("Base and head in one picture each", rows))
    return found


def _changed_files(pair: Pair) -> list[str]:
    return pair.changed(under="curves", suffixes=(".csv",))


def _collected(process: "subprocess.Popen[str]") -> dict[str, Any]:
    """What `dvc plots diff --json` printed."""
    out, err = process.communicate()
    try:
        collected = json.loads(out)
    except ValueError:
        collected = None
    if not isinstance(collected, dict) or "data" not in collected:
        said = err.strip().splitlines()[-1:] or [f"status {process.returncode}"]
        message = f"`dvc plots diff` gave no curves: {said[0]}"
        raise InputError(message)
    return collected


def _not_collected(errors: list[dict[str, Any]], pair: Pair) -> list[str]:
    """What DVC could not read; a file that a side does not have is none of it."""
    found = {
        f"curves of {_renamed(error['rev'], pair)}: {error.get('source', '')} {' '.join(error['msg'].split())}"
        for error in errors
        if error["type"] != "FileNotFoundError"
    }
    return [" ".join(sentence.split()) for sentence in sorted(found)]


def _plots(data: dict[str, Any], pair: Pair) -> dict[str, dict[str, Any]]:
    """Name -> Vega-Lite specification of each curve that is not the same in base and head."""
    assert pair.base
    return {
        _file_name(name): _renamed(plot["content"], pair)
        for name, plots in data.items()
        # a plot under a file's name is that of a stage: drawn again by what dvc.yaml defines at its top level
        if name not in pair.base.blobs and name not in pair.head.blobs
        for plot in plots
        if plot["type"] == "vega" and _differs(plot["content"])
    }


def _file_name(name: str) -> str:
    """``profiles/laptop/dvc.yaml::toy_games`` -> ``laptop-toy_games``."""
    folder, _, plot = name.rpartition("dvc.yaml::")  # without a prefix where the project has one dvc.yaml
    return f"{Path(folder).name or 'embedded'}-{plot}".replace("/", "-")


def _differs(specification: dict[str, Any]) -> bool:
    sides: dict[str, list[Any]] = {}
    values = specification.get("data", {}).get("values", [])
    for point in values:
        sides.setdefault(point.get("rev"), []).append({key: value for key, value in point.items() if key != "rev"})
    contents = list(sides.values())
    return len(contents) == 1 or any(content != contents[0] for content in contents)


def _renamed(node: Any, pair: Pair) -> Any:
    """``base`` and ``head`` for what DVC calls the revisions."""
    assert pair.base
    names = {"workspace": "head", pair.head.commit: "head", pair.head.short: "head"}
    names |= {pair.base.commit: "base", pair.base.short: "base"}
    if isinstance(node, dict):
        return {key: _renamed(value, pair) for key, value in node.items()}
    if isinstance(node, list):
        return [_renamed(value, pair) for value in node]
    return names.get(node, node) if isinstance(node, str) else node


def _draw(plots: dict[str, dict[str, Any]], folder: Path) -> tuple[list[Path], list[str]]:
    """The pictures of the curves that could be drawn, and of each other curve why not."""
    try:
        import vl_convert
    except ImportError as error:
        message = "curves are not drawn without the package vl-convert-python: `pip install vl-convert-python`"
        raise InputError(message) from error
    drawn, problems = [], []
    for name, specification in sorted(plots.items()):
        try:
            picture = vl_convert.vegalite_to_png(specification, vl_version=VEGA_LITE, scale=1.5)
        except ValueError as error:
            problems.append(f"the curve {name} cannot be drawn: {str(error).splitlines()[0]}")
            continue
        drawn.append(folder / f"{name}.png")
        with whole_file(drawn[-1]) as partial:
            partial.write_bytes(picture)
    return drawn, problems
