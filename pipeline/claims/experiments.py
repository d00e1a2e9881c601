"""Arms as DVC experiments: their names, which of them are there already, and how one is run.

An experiment is named after its arm and after a hash of all that decides its result: overrides, targets, and of each
stage that they need the command, the params and the code. The same hash is the same result, so such an arm is not run
again; a commit that touches none of it runs nothing.
"""

import fcntl
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pipeline.claims.book import Experiment
from pipeline.core.errors import InputError
from pipeline.core.source_code import fingerprint
from pipeline.project import lock

if TYPE_CHECKING:
    from dvc.repo import Repo

PREFIX = "ablation"
# what an experiment carries of the working tree, and what decides results
CARRIED = ("params.yaml", "dvc.yaml", "pipeline", "stages", "annotations")
LOGS = Path(".work/ablations")

Run = Callable[[Experiment, str], None]  # an arm, the name of its experiment; InputError where it fails


def names(root: Path, experiments: Iterable[Experiment]) -> dict[str, str]:
    """arm -> name of its experiment, as code and params now stand.

    Raises
    ------
    InputError
        If a target is no stage of dvc.yaml, or bytes that the arm starts from are not in the cache.
    """
    with _open_repo(root) as repo:
        recipes = _Recipes(repo, root)
        return {e.arm: f"{PREFIX}-{e.arm}-{recipes.digest(e)[:8]}" for e in experiments}


def stale_outputs(root: Path) -> frozenset[str]:
    """Outputs that dvc.lock has from other code, params or data than there are now, and all that was made from them."""
    stale = {problem.stage for problem in lock.stale_stages(root, Path("dvc.yaml"))}
    with _open_repo(root) as repo:
        return _Recipes(repo, root).outputs_after(stale)


def done(root: Path) -> dict[str, str]:
    """Name -> commit of all experiments of arms that have ended well, whatever commit they started from."""
    listing = _git(root, "for-each-ref", "--format=%(objectname) %(refname)", "refs/exps")
    found = {}
    for line in listing.splitlines():
        commit, _, reference = line.partition(" ")
        name = reference.rpartition("/")[2]
        if name.startswith(f"{PREFIX}-") and reference.count("/") == 4:  # refs/exps/ab/cdef.../NAME
            found[name] = commit
    return found


def cache_path(root: Path) -> Callable[[str], Path]:
    """md5 -> its place in DVC's cache."""
    with _open_repo(root) as repo:
        cache = repo.cache.local
        return lambda md5: Path(cache.oid_to_path(md5))


def source_state(root: Path) -> str:
    """A hash of the files that an experiment carries along; quick, to notice edits while arms run."""
    tracked = _git(root, "ls-files", "-z", "--", *CARRIED).split("\0")
    return fingerprint([Path(name) for name in tracked if name and (root / name).is_file()], root)


def check_tree(root: Path) -> list[str]:
    """Remarks on the state of the checkout that a user must know before arms run.

    Raises
    ------
    InputError
        If this is no Git checkout with a commit, Git has no identity to commit experiments with, or code is not known
        to Git: an experiment would run without it.
    """
    if _git_status(root, "rev-parse", "--verify", "--quiet", "HEAD"):
        message = f"{root.resolve()}: experiments need a Git checkout with a commit; run from a clone of the project"
        raise InputError(message)
    if _git_status(root, "var", "GIT_COMMITTER_IDENT"):
        message = "Git does not know who you are, and DVC commits each experiment; run `git config user.name NAME` and "
        message += "`git config user.email ADDRESS`"
        raise InputError(message)
    untracked = _git(root, "ls-files", "--others", "--exclude-standard", "--", *CARRIED).splitlines()
    if untracked:
        message = (
            f"{', '.join(untracked)}: not known to Git, and an experiment does not carry such files along; `git add` "
        )
        message += "them, or move them away"
        raise InputError(message)
    edited = _git(root, "diff", "--name-only", "HEAD", "--", *CARRIED).splitlines()
    remarks = []
    if edited:
        remarks.append(f"note: edited and not committed, the experiments carry it along: {', '.join(edited)}")
    if _git_status(root, "symbolic-ref", "--quiet", "HEAD"):
        remarks.append("note: no branch is checked out; `dvc exp list -A` shows experiments of such a commit")
    return remarks


def run_with_dvc(root: Path) -> Run:
    """Run an arm as ``dvc exp run --temp``, in a copy of the checkout below .dvc/tmp; its output goes to a log."""

    def run(experiment: Experiment, name: str) -> None:
        command = [sys.executable, "-m", "dvc", "--wait-for-lock", "exp", "run", "--temp", "--name", name]
        command += [part for override in experiment.overrides for part in ("-S", override)]
        with _held(root / LOGS / f"{name}.log") as log:
            status = subprocess.run(
                [*command, *experiment.targets],
                cwd=root,
                env=_environment(),
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                check=False,
            ).returncode
        if status or name not in done(root):
            message = f"{_last_words(root / LOGS / f'{name}.log')} (the whole output: {LOGS / f'{name}.log'})"
            raise InputError(message)

    return run


def remove(root: Path, name: str) -> None:
    """Drop an experiment of ours from Git; its bytes stay in the cache until ``dvc gc``."""
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "exp", "remove", "--quiet", name]
    subprocess.run(command, cwd=root, env=_environment(), check=False, capture_output=True)


def _environment() -> dict[str, str]:
    """Stages call ``python`` and import ``pipeline`` from the experiment's copy, which is their working directory."""
    ours = ("PYTHONPATH", "PYTHONSAFEPATH", "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")
    kept = {key: value for key, value in os.environ.items() if key not in ours}
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
        self._check_cache(experiment, needed)
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

    def _check_cache(self, experiment: Experiment, needed: Mapping[str, set[str]]) -> None:
        """What an override does not touch must be there, or an experiment would begin by making all data anew."""
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


@contextmanager
def _open_repo(root: Path) -> "Iterator[Repo]":
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(root.resolve())) as repo:
            yield repo
    except DvcException as error:
        message = f"DVC: {error}"
        raise InputError(message) from error


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        message = f"git {arguments[0]}: {done.stderr.strip() or 'failed'}"
        raise InputError(message)
    return done.stdout


def _git_status(root: Path, *arguments: str) -> int:
    return subprocess.run(["git", *arguments], cwd=root, capture_output=True, check=False).returncode
