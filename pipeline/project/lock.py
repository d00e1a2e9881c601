"""Is dvc.lock up to date? Answered without data, cache or GPU, from what Git tracks alone.

``dvc status`` calls everything deleted in a bare clone, and ``dvc repro --dry --allow-missing`` misses stale stages;
this compares each stage's lock entry with its command, params, code and the lock entries of the stages before it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.core.errors import InputError
from pipeline.core.files import write_text
from pipeline.project.read_once import params_read_once
from pipeline.project.twins import TWINS

if TYPE_CHECKING:
    from dvc.dependency.base import Dependency
    from dvc.output import Output
    from dvc.repo import Repo
    from dvc.stage import PipelineStage
    from dvc_data.hashfile.hash_info import HashInfo

PROFILES = {"embedded": Path("dvc.yaml")} | {twin: Path("profiles") / twin / "dvc.yaml" for twin in TWINS}
CODE = ("pipeline", "stages")  # top-level folders: a stage that differs only there may have to wait for its hardware

Kind = Literal["never run", "stale", "code"]
Outs = dict[str, "Output"]  # by absolute path, of all stages of all profiles


@dataclass(frozen=True)
class Problem:
    """Why one stage's lock entry is not up to date."""

    stage: str
    kind: Kind
    what: str


@dataclass(frozen=True)
class Report:
    """What ``verify-lock`` says, and whether it may pass."""

    lines: list[str]
    passed: bool


def verify_lock(root: Path = Path()) -> Report:
    """Check the three dvc.lock files; only the embedded one has to be up to date."""
    lines: list[str] = []
    passed = True
    with open_repo(root) as repo:  # once for all profiles: DVC reads every dvc.yaml and dvc.lock each time
        for profile, dvc_yaml in PROFILES.items():
            if not (root / dvc_yaml).is_file():
                continue
            stages = stages_of(repo, root, dvc_yaml)
            problems = problems_of(repo, stages)
            lines += _say(profile, problems, len(stages))
            if profile == "embedded" and problems:
                passed = False
    if not passed:
        lines.append(
            "error: dvc.lock is not up to date with the embedded graph; run `make repro` and commit what changes"
        )
    return Report(lines, passed)


def stale_stages(root: Path, dvc_yaml: Path) -> list[Problem]:
    """All that is not up to date in one profile's lock; empty when `dvc repro` would have nothing to do.

    Parameters
    ----------
    root : the project's root
    dvc_yaml : of the profile, relative to ``root``

    Returns
    -------
    list of Problem
        In the order of dvc.yaml. Of a stage that has no lock entry only that is said. A stage whose problems are all of
        kind ``code`` was run with other code, but with the same command, params and data.

    Raises
    ------
    InputError
        If DVC cannot read the project.
    """
    with open_repo(root) as repo:
        return problems_of(repo, stages_of(repo, root, dvc_yaml))


def stage_names(root: Path, dvc_yaml: Path) -> list[str]:
    """Names of all stages of one dvc.yaml, those of ``foreach`` resolved."""
    with open_repo(root) as repo:
        return list(stages_of(repo, root, dvc_yaml))


def prune_lock(root: Path = Path()) -> list[str]:
    """Drop the entries of stages that no longer exist, which DVC never does; the other lines stay as DVC wrote them.

    Returns
    -------
    list of str
        ``dvc.lock: train@gone`` for each dropped entry.

    Raises
    ------
    InputError
        If DVC cannot read the project, or a DVC command is running.
    """
    dropped: list[str] = []
    with open_repo(root) as repo, repo.lock:
        for dvc_yaml in PROFILES.values():
            if (root / dvc_yaml).is_file():
                dropped += _prune_one(repo, root, dvc_yaml.with_suffix(".lock"), set(stages_of(repo, root, dvc_yaml)))
    return dropped


def order_lock(root: Path, dvc_yaml: Path = PROFILES["embedded"]) -> None:
    """Put a lock's entries into the order of dvc.yaml, and leave the text of each as it is.

    DVC runs independent stages in an order that Python's hash seed decides, and a fresh dvc.lock keeps it: two runs
    from nothing then give the same entries, but not the same bytes (seen with DVC 3.67).
    """
    with open_repo(root) as repo, repo.lock:
        _order_one(repo, root / dvc_yaml.with_suffix(".lock"), list(stages_of(repo, root, dvc_yaml)))


def _order_one(repo: "Repo", path: Path, names: list[str]) -> None:
    lock = _read_for_update(path)
    recorded = list(lock.get("stages", {}))
    ordered = sorted(recorded, key=lambda name: names.index(name) if name in names else len(names))
    if ordered != recorded:
        for name in ordered:
            lock["stages"].move_to_end(name)
        _write(repo, path, lock)


def _prune_one(repo: "Repo", root: Path, lock_file: Path, known: set[str]) -> list[str]:
    path = root / lock_file
    lock = _read_for_update(path)
    gone = [name for name in lock.get("stages", {}) if name not in known]
    for name in gone:
        del lock["stages"][name]
    if gone and lock["stages"]:
        _write(repo, path, lock)
    elif gone:
        path.unlink()  # as DVC does with the last entry
    return [f"{lock_file.as_posix()}: {name}" for name in gone]


def _read_for_update(path: Path) -> Any:
    """A dvc.lock as DVC's own serializer reads it, so that it is written as DVC writes it."""
    from dvc.utils.serialize import parse_yaml_for_update

    return parse_yaml_for_update(path.read_text(encoding="utf-8"), str(path)) if path.is_file() else {}


def _write(repo: "Repo", path: Path, lock: Any) -> None:
    """As DVC does it: with its serializer, and staged in Git where core.autostage says so."""
    from dvc.utils.serialize import dumps_yaml

    write_text(path, dumps_yaml(lock))
    with repo.scm_context(quiet=True) as context:
        context.track_file(os.path.relpath(path))


def problems_of(repo: "Repo", stages: "dict[str, PipelineStage]") -> list[Problem]:
    """:func:`stale_stages` of a profile's stages, as :func:`stages_of` gives them."""
    outs: Outs = {out.fs_path: out for stage in repo.index.stages for out in stage.outs}
    entries = entries_of(stages)
    problems: list[Problem] = []
    for name, stage in stages.items():
        if name in entries:
            problems += stage_problems(name, stage, entries[name], outs)
        else:
            problems.append(Problem(name, "never run", "no entry in dvc.lock"))
    return problems


@contextmanager
def open_repo(root: Path) -> "Iterator[Repo]":
    """DVC's view of the project, for looking; its errors become ours, with their causes."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(root.resolve())) as repo, params_read_once():
            yield repo
    except DvcException as error:
        raise InputError(_whole_message(error)) from error


def _whole_message(error: BaseException) -> str:
    """DVC's message with its causes: the outer one often says only which file."""
    parts: list[str] = []
    cause: BaseException | None = error
    while cause:
        text = str(cause).strip()
        if text and text not in parts:
            parts.append(text)
        cause = cause.__cause__
    return "DVC: " + ": ".join(parts)


def stages_of(repo: "Repo", root: Path, dvc_yaml: Path) -> "dict[str, PipelineStage]":
    """Stages of one dvc.yaml by name, in its order."""
    from dvc.stage import PipelineStage

    path = (root / dvc_yaml).resolve()
    return {
        stage.name: stage
        for stage in repo.index.stages
        if isinstance(stage, PipelineStage) and stage.name and Path(stage.path) == path
    }


def entries_of(stages: "dict[str, PipelineStage]") -> dict[str, Any]:
    """The lock that DVC has read with these stages; reading it again would take a second."""
    dvcfile: Any = next(iter(stages.values())).dvcfile if stages else None
    return dvcfile.lockfile_contents.get("stages", {}) if dvcfile else {}


def stage_problems(name: str, stage: "PipelineStage", entry: dict[str, Any], outs: Outs) -> list[Problem]:
    """What makes a stage stale: its lock entry against its command, params and deps, and the outs of other stages."""
    from dvc.dependency.param import ParamsDependency

    stale: list[str] = ["its cmd changed"] if stage.changed_stage() else []
    code: list[str] = []
    stale += _removed_from_dvc_yaml(stage, entry)
    for dep in stage.deps:
        if isinstance(dep, ParamsDependency):
            stale += _param_problems(dep, entry.get("params", {}).get(dep.def_path, {}))
        elif what := _dep_problem(dep, outs):
            is_code = Path(dep.fs_path).relative_to(stage.repo.root_dir).parts[0] in CODE
            (code if is_code else stale).append(what)
    stale += [what for out in stage.outs if (what := _out_problem(out))]
    return [Problem(name, "stale", what) for what in stale] + [Problem(name, "code", what) for what in code]


def _removed_from_dvc_yaml(stage: "PipelineStage", entry: dict[str, Any]) -> list[str]:
    """Lock lines without a line in dvc.yaml: DVC calls the stage unchanged, but a fresh run writes another lock."""
    deps = {dep.def_path for dep in stage.deps}
    outs = {out.def_path for out in stage.outs}
    return [
        f"{section[:-1]} {item['path']} is in dvc.lock, but no longer in dvc.yaml (`dvc commit -f {stage.addressing}`)"
        for section, known in (("deps", deps), ("outs", outs))
        for item in entry.get(section, [])
        if item["path"] not in known
    ] + [
        f"params of {file} are in dvc.lock, but no longer in dvc.yaml (`dvc commit -f {stage.addressing}`)"
        for file in entry.get("params", {})
        if file not in deps
    ]


def _param_problems(dep: Any, recorded: dict[str, Any]) -> list[str]:
    problems: list[str] = []
    for where, changes in dep.status().items():
        if isinstance(changes, str):
            problems.append(f"params file {where} is {changes}")
        else:
            problems += [f"param {name} is {how}" for name, how in changes.items()]
    # of the lock itself: DVC's own view of it has the named params only
    gone = [name for name in recorded if name not in dep.params] if dep.params else []  # none named: the whole file
    problems += [f"param {name} is in dvc.lock, but no longer in dvc.yaml" for name in gone]
    return problems


def _dep_problem(dep: "Dependency", outs: Outs) -> str | None:
    path = dep.fs_path
    inside = {child: out for child, out in outs.items() if child.startswith(path + "/")}
    if not dep.hash_info:
        return f"dep {dep.def_path} is new"
    if path in outs:
        same = dep.hash_info == outs[path].hash_info
        return None if same else f"dep {dep.def_path} is not what the stage before it last wrote"
    if inside:
        return _folder_problem(dep, inside)
    if any(path.startswith(out + "/") for out in outs):
        return (
            f"dep {dep.def_path} lies inside another stage's output and cannot be verified; depend on the whole output"
        )
    return _tracked_problem(dep)


def _tracked_problem(item: "Output") -> str | None:
    """Of a file or folder that Git tracks."""
    role = "dep" if item.IS_DEPENDENCY else "out"
    if not item.exists:
        return f"{role} {item.def_path} is missing"
    return f"{role} {item.def_path} is modified" if item.changed_checksum() else None


def _folder_problem(dep: "Dependency", inside: Outs) -> str | None:
    """A folder that other stages fill: DVC's hash of it follows from the hashes of what they wrote.

    Stages that never ran wrote nothing, and are told of by themselves.
    """
    written = {child: out for child, out in inside.items() if out.hash_info}
    folders = [out.def_path for out in written.values() if out.hash_info and out.hash_info.isdir]
    if folders:
        return f"dep {dep.def_path}: {folders[0]} is a folder inside it, whose hash says too little; let it be files"
    if dep.hash_info == folder_hash({Path(child).relative_to(dep.fs_path): out for child, out in written.items()}):
        return None
    what = f"dep {dep.def_path} is not what the stages before it last wrote"
    strangers = sorted(str(file) for file in Path(dep.fs_path).rglob("*") if file.is_file() and str(file) not in inside)
    if strangers:
        left = Path(strangers[0]).relative_to(dep.fs_path).as_posix()
        what += f", and no stage writes {dep.def_path}/{left}: remove it, then run this graph again"
    return what


def folder_hash(files: "dict[Path, Output]") -> "HashInfo":
    """DVC's hash of a folder that holds just these outputs, by path inside the folder."""
    from dvc_data.hashfile.tree import Tree

    tree = Tree()
    for path, out in files.items():
        tree.add(path.parts, None, out.hash_info)
    tree.digest()
    assert tree.hash_info
    return tree.hash_info


def _out_problem(out: "Output") -> str | None:
    if not out.hash_info:
        return f"out {out.def_path} is new"
    return None if out.use_cache else _tracked_problem(out)


def _say(profile: str, problems: list[Problem], n_stages: int) -> list[str]:
    by_stage: dict[str, list[Problem]] = {}
    for problem in problems:
        by_stage.setdefault(problem.stage, []).append(problem)
    lines = [f"{profile}: {n_stages - len(by_stage)} of {n_stages} stages up to date"]
    never_run = [stage for stage, found in by_stage.items() if found[0].kind == "never run"]
    for stage, found in by_stage.items():
        if stage not in never_run:
            label = "stale in code only" if {problem.kind for problem in found} == {"code"} else "stale"
            lines.append(f"  {stage}: {label}: " + "; ".join(problem.what for problem in found))
    if never_run:
        lines.append(f"  never run: {', '.join(never_run)}")
    return lines
