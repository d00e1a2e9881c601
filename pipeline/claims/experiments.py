"""Arms as DVC experiments: their names, which of them are there already, and how one is run.

An experiment is named after its arm and after a hash of all that decides its result: overrides, targets, and of each
stage that they need the command, the params and the code. The same hash is the same result, so such an arm is not run
again; a commit that touches none of it runs nothing.
"""

import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pipeline.claims.book import Experiment
from pipeline.core.errors import InputError
from pipeline.core.source_code import fingerprint
from pipeline.project import dvc_child, lock
from pipeline.project import git as gits
from pipeline.project.git import git

if TYPE_CHECKING:
    from dvc.repo import Repo

PREFIX = "ablation"
# what an experiment carries of the working tree, and what decides results
CARRIED = ("params.yaml", "dvc.yaml", "pipeline", "stages", "annotations")
LOGS = Path(".work/ablations")
# As for stages, but an interrupted DVC has more to clear up: it brings edits back that it had put away.
ON_THE_WAY_OUT = ((signal.SIGINT, 30.0), *dvc_child.ON_THE_WAY_OUT[1:])


def names(root: Path, experiments: Iterable[Experiment]) -> dict[str, str]:
    """arm -> name of its experiment, as code and params now stand.

    Raises
    ------
    InputError
        If a target is no stage of dvc.yaml.
    """
    with lock.open_repo(root) as repo:
        recipes = _Recipes(repo, root)
        return {e.arm: f"{PREFIX}-{e.arm}-{recipes.digest(e)[:8]}" for e in experiments}


def check_cache(root: Path, experiments: Iterable[Experiment]) -> None:
    """Refuse arms that would begin by making all data anew, as in a fresh clone.

    Raises
    ------
    InputError
        If bytes that an arm starts from are not in DVC's cache.
    """
    with lock.open_repo(root) as repo:
        recipes = _Recipes(repo, root)
        for experiment in experiments:
            recipes.check_cache(experiment)


def stale_outputs(root: Path) -> frozenset[str]:
    """Outputs that dvc.lock has from other code, params or data than there are now, and all that was made from them."""
    stale = {problem.stage for problem in lock.stale_stages(root, Path("dvc.yaml"))}
    with lock.open_repo(root) as repo:
        return _Recipes(repo, root).outputs_after(stale)


def not_made(root: Path, experiments: Iterable[Experiment]) -> dict[str, frozenset[str]]:
    """arm -> outputs of the graph that none of its targets needs.

    Raises
    ------
    InputError
        If a target is no stage of dvc.yaml.
    """
    with lock.open_repo(root) as repo:
        recipes = _Recipes(repo, root)
        return {e.arm: recipes.not_made(e) for e in experiments}


def done(root: Path) -> dict[str, str]:
    """Name -> commit of all experiments of arms that have ended well, whatever commit they started from."""
    found = {}
    for line in _lines(root, "for-each-ref", "--format=%(objectname) %(refname)", "refs/exps"):
        commit, _, reference = line.partition(" ")
        name = reference.rpartition("/")[2]
        if name.startswith(f"{PREFIX}-") and reference.count("/") == 4:  # refs/exps/ab/cdef.../NAME
            found[name] = commit
    return found


def cache_path(root: Path) -> Callable[[str], Path]:
    """md5 -> its place in DVC's cache."""
    with lock.open_repo(root) as repo:
        cache = repo.cache.local
        return lambda md5: Path(cache.oid_to_path(md5))


def source_state(root: Path) -> str:
    """A hash of the files that an experiment carries along; quick, to notice edits while arms run."""
    tracked = git("ls-files", "-z", "--", *CARRIED, root=root).decode().split("\0")
    try:
        return fingerprint([Path(name) for name in tracked if name and (root / name).is_file()], root)
    except FileNotFoundError as error:  # put away this very moment, by a dvc that starts beside this one
        return f"without {error.filename}"


def check_tree(root: Path) -> list[str]:
    """Remarks on the state of the checkout that a user must know before arms run.

    Raises
    ------
    InputError
        If this is no Git checkout with a commit, Git has no identity to commit experiments with, code is not known to
        Git (an experiment would run without it), or a killed DVC left the overrides of an experiment here.
    """
    if not gits.succeeds("rev-parse", "--verify", "--quiet", "HEAD", root=root):
        message = f"{root.resolve()}: experiments need a Git checkout with a commit; run from a clone of the project"
        raise InputError(message)
    on_branch = gits.succeeds("symbolic-ref", "--quiet", "HEAD", root=root)
    if not on_branch and git("diff", "--cached", "--name-only", "--", "params.yaml", root=root):
        raise InputError(_half_prepared(root))
    if not gits.succeeds("var", "GIT_COMMITTER_IDENT", root=root):
        message = "Git does not know who you are, and DVC commits each experiment; run `git config user.name NAME` and "
        message += "`git config user.email ADDRESS`"
        raise InputError(message)
    untracked = _lines(root, "ls-files", "--others", "--exclude-standard", "--", *CARRIED)
    if untracked:
        message = (
            f"{', '.join(untracked)}: not known to Git, and an experiment does not carry such files along; `git add` "
        )
        message += "them, or move them away"
        raise InputError(message)
    edited = _lines(root, "diff", "--name-only", "HEAD", "--", *CARRIED)
    remarks = []
    if edited:
        remarks.append(f"note: edited and not committed, the experiments carry it along: {', '.join(edited)}")
    if not on_branch:
        remarks.append("note: no branch is checked out; `dvc exp list -A` shows experiments of such a commit")
    return remarks


def _half_prepared(root: Path) -> str:
    """What to do where DVC was killed while it had an experiment's params in the working tree, and HEAD off its branch.

    It had put uncommitted edits away as a stash, and laid them over the working tree once more: there they are mixed
    with the overrides, so what counts is the stash.
    """
    branches = _lines(root, "for-each-ref", "--points-at=HEAD", "--format=%(refname:short)", "refs/heads")
    branch = branches[0] if len(branches) == 1 else "BRANCH"
    back = f"git restore --staged --worktree params.yaml && git switch {branch}"
    if _is_put_away(root):
        back = f"git reset --hard && git switch {branch} && git stash pop --index"
    else_which = "" if len(branches) == 1 else f" (BRANCH: {' or '.join(branches) or 'where you were'})"
    return (
        f"params.yaml: edited and staged while no branch is checked out, as a dvc that was killed leaves it with the "
        f"overrides of an experiment; run `{back}`{else_which}, or, if the edit is your own, "
        "`git restore --staged params.yaml`, and the command again"
    )


def _is_put_away(root: Path) -> bool:
    """Whether the last stash is of this commit, and all that it holds is edited in the working tree, too."""
    if not gits.succeeds("rev-parse", "--verify", "--quiet", "refs/stash", root=root):
        return False
    stashed_at, head = git("rev-parse", "refs/stash^1", "HEAD", root=root).split()
    held = _lines(root, "diff", "--name-only", "refs/stash^1", "refs/stash")
    return stashed_at == head and set(held) <= set(_lines(root, "diff", "--name-only", "HEAD"))


class Runs:
    """Arms run as ``dvc exp run --temp``, in a copy of the checkout below .dvc/tmp, from as many threads as there are.

    Each DVC leads a group of processes, which can be stopped as a whole. It does not die with a runner that is killed
    (-9): in the second in which it prepares an experiment, that would leave the overrides in the working tree.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._guard = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    def run(self, experiment: Experiment, name: str) -> None:
        """Run an arm, whose experiment gets this name; its output goes to a log.

        Raises
        ------
        InputError
            If it fails.
        CancelledError
            If it was stopped.
        """
        command = [sys.executable, "-m", "dvc", "--wait-for-lock", "exp", "run", "--temp", "--name", name]
        command += [part for override in experiment.overrides for part in ("-S", override)]
        log_file = LOGS / f"{name}.log"
        with _held(self._root / log_file) as log:
            status = self._status([*command, *experiment.targets], log)
        if self._stopped:
            raise CancelledError
        if status or name not in done(self._root):
            message = f"{_last_words(self._root / log_file)} (the whole output: {log_file})"
            raise InputError(message)

    def stop(self) -> None:
        """End all that run, and let none start; DVC drops what it began, and leaves the working tree as it was."""
        with self._guard:
            self._stopped = True
            running = list(self._running)
        dvc_child.stop(running, ON_THE_WAY_OUT)

    def _status(self, command: list[str], log: IO[str]) -> int:
        with self._guard:
            if self._stopped:
                raise CancelledError
            process = subprocess.Popen(
                command,
                cwd=self._root,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self._running.add(process)
        try:
            return process.wait()
        finally:
            with self._guard:
                self._running.discard(process)


def remove(root: Path, name: str) -> None:
    """Drop an experiment of ours from Git; its bytes stay in the cache until ``dvc gc``."""
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "exp", "remove", "--quiet", name]
    subprocess.run(command, cwd=root, env=_environment(), check=False, capture_output=True)


def _environment() -> dict[str, str]:
    """Stages call ``python`` and import ``pipeline`` from the experiment's copy, which is their working directory."""
    kept = {key: value for key, value in gits.environment().items() if key not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return kept | {"PATH": path, "SHELL": "/bin/sh"}


@contextmanager
def _held(log: Path) -> "Iterator[IO[str]]":
    """An empty log, locked for as long as any process writes to it: a dvc that outlived its runner holds it, too."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            message = f"{log}: the dvc of an earlier call is still running this arm; wait for it, or stop it"
            raise InputError(message) from error
        file.truncate(0)
        yield file


def _last_words(log: Path) -> str:
    """The stage's own sentence, if it said one, else DVC's, else the last line."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    for mark in ("error: ", "ERROR: "):
        if said := [line for line in lines if line.startswith(mark)]:
            return said[0].removeprefix(mark)
    return lines[-1] if lines else "it ended without a word"


# ---- what decides a result -----------------------------------------------------------------------------------------


class _Recipes:
    """What decides the result of each stage, read once."""

    def __init__(self, repo: "Repo", root: Path) -> None:
        from dvc.stage import PipelineStage

        self._repo = repo
        self._stages: dict[str, Any] = {
            str(stage.name): stage
            for stage in repo.index.stages
            if isinstance(stage, PipelineStage) and Path(stage.path) == (root / "dvc.yaml").resolve()
        }
        self._outs = {out.fs_path: stage for stage in self._stages.values() for out in stage.outs}
        self._read: dict[str, dict[str, Any]] = {}

    def digest(self, experiment: Experiment) -> str:
        needed = self._needed(experiment)
        recipe = {
            "overrides": sorted(experiment.overrides),
            "targets": sorted(experiment.targets),
            "stages": {name: self._recipe(name) for name in sorted(needed)},
        }
        return hashlib.sha256(json.dumps(recipe, sort_keys=True, default=str).encode()).hexdigest()

    def _needed(self, experiment: Experiment) -> dict[str, set[str]]:
        """Stage -> the stages that it reads from, of all that the targets need."""
        needed: dict[str, set[str]] = {}
        waiting = list(experiment.targets)
        while waiting:
            name = waiting.pop()
            if name not in self._stages:
                message = f"arm {experiment.arm}: '{name}' is no stage of dvc.yaml; `dvc stage list` shows them"
                raise InputError(message)
            if name not in needed:
                needed[name] = self._reads_from(name)
                waiting += needed[name]
        return needed

    def _reads_from(self, name: str) -> set[str]:
        return {self._outs[path].name for dep in self._stages[name].deps for path in self._made(dep)}

    def not_made(self, experiment: Experiment) -> frozenset[str]:
        beside = self._stages.keys() - self._needed(experiment).keys()
        return frozenset(out.def_path for name in beside for out in self._stages[name].outs)

    def outputs_after(self, stages: set[str]) -> frozenset[str]:
        """Outputs of these stages, and of all that need them."""
        found, needs = set(stages), {name: self._reads_from(name) for name in self._stages}
        while after := {name for name in needs if name not in found and needs[name] & found}:
            found |= after
        return frozenset(out.def_path for name in found for out in self._stages[name].outs)

    def _made(self, dep: Any) -> list[str]:
        """The outputs that a dependency is, or that lie in it."""
        return [path for path in self._outs if path == dep.fs_path or path.startswith(f"{dep.fs_path}/")]

    def _recipe(self, name: str) -> dict[str, Any]:
        from dvc.dependency.param import ParamsDependency

        if name not in self._read:
            stage = self._stages[name]
            params = [dep for dep in stage.deps if isinstance(dep, ParamsDependency)]
            code = [dep for dep in stage.deps if dep not in params and not self._made(dep)]
            self._read[name] = {
                "cmd": stage.cmd,
                "params": {key: value for dep in params for key, value in dep.read_params().items()},
                "code": {dep.def_path: dep.get_hash().value for dep in code},
            }
        return self._read[name]

    def check_cache(self, experiment: Experiment) -> None:
        """Refuse an arm if an output that its overrides do not touch is not in the cache."""
        needed = self._needed(experiment)
        keys = [override.partition("=")[0] for override in experiment.overrides]
        changed: set[str] = {name for name in needed if self._reads_one_of(name, keys)} | set(experiment.targets)
        while after := {name for name in needed if name not in changed and needed[name] & changed}:
            changed |= after
        for name in sorted(needed.keys() - changed):
            for out in self._stages[name].outs:
                if out.use_cache and not (out.hash_info and out.hash_info.value and self._has(out.hash_info.value)):
                    message = f"arm {experiment.arm}: {out.def_path} is not in DVC's cache; run `make repro` first"
                    raise InputError(message)

    def _reads_one_of(self, name: str, keys: list[str]) -> bool:
        found = self._recipe(name)["params"]
        return any(_inside(key, param) or _inside(param, key) for key in keys for param in found)

    def _has(self, md5: str) -> bool:
        return self._repo.cache.local.exists(md5)


def _inside(key: str, section: str) -> bool:
    return key == section or key.startswith(f"{section}.")


def _lines(root: Path, *arguments: str) -> list[str]:
    return git(*arguments, root=root).decode().splitlines()
