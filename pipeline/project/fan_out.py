"""Run the stages that targets need side by side, each by its own ``dvc repro --single-item``.

DVC decides what a stage does: whether it changed, whether the run cache has it, what is written to dvc.lock. Here is
only the order: a stage starts when all that it needs have ended. While a command runs, DVC lets go of its lock, so
others may start; what it writes itself (dvc.lock, the cache, Git's index) is written under that lock, by one at a time.
``dvc_child`` sees to it that a kill leaves no half of a dvc.lock.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from pipeline.core.errors import InputError
from pipeline.core.scratch import locked
from pipeline.project import lock
from pipeline.project.dvc_child import forget_the_dead, stop, stopped_by_signals
from pipeline.project.lock import open_repo, stages_of
from pipeline.project.status import duration

if TYPE_CHECKING:
    from dvc.stage import PipelineStage

LOGS = Path(".work/fan-out")
DID_NOT_CHANGE = re.compile(r"^Stage '.*' didn't change, skipping$", re.MULTILINE)  # what DVC says of a stage
SECONDS_BETWEEN_LINES = 30.0

Outcome = Literal["up to date", "done", "failed", "skipped"]


@dataclass(frozen=True)
class Plan:
    """The stages that targets need, each after all that it needs itself.

    Attributes
    ----------
    needs : address of a stage -> addresses of the stages whose outputs it reads, in DVC's own graph
    changed : those that DVC calls changed as things stand; the others have to run only if one that they need did
    on_gpu : those that depend on the params ``compute``, by which a stage is told its device
    """

    needs: dict[str, set[str]]
    changed: set[str]
    on_gpu: set[str]

    def dependants(self, failed: str) -> list[str]:
        """All stages that need this one, however far down."""
        found = {failed}
        for stage, needed in self.needs.items():
            if needed & found:
                found.add(stage)
        return [stage for stage in self.needs if stage in found - {failed}]


def make_plan(root: Path, profile: str, targets: Sequence[str]) -> Plan:
    """What has to run for ``targets``: names of stages or groups of one profile; none: its whole graph.

    Raises
    ------
    InputError
        If a target is unknown, DVC cannot read the project, or another DVC command holds the lock.
    """
    import networkx as nx

    dvc_yaml = lock.PROFILES[profile]
    with open_repo(root) as repo, repo.lock:
        forget_the_dead(Path(repo.tmp_dir or ""), hardlink_lock=repo.config["core"].get("hardlink_lock", False))
        stages = stages_of(repo, root, dvc_yaml)
        graph = repo.index.graph
        wanted = [stages[name] for name in matching(list(stages), targets, dvc_yaml)]
        needed = {stage for one in wanted for stage in (one, *nx.descendants(graph, one))}
        position = {stage: place for place, stage in enumerate(stages.values())}
        # An edge of DVC's graph leads from a stage to one that it needs. Places in dvc.yaml decide between equals.
        order = list(
            nx.lexicographical_topological_sort(
                graph.subgraph(needed).reverse(), key=lambda stage: position.get(stage, -1)
            )
        )
        return Plan(
            needs={stage.addressing: {other.addressing for other in graph.successors(stage)} for stage in order},
            changed={stage.addressing for stage in order if _changed(stage)},
            on_gpu={stage.addressing for stage in order if _knows_device(stage)},
        )


def matching(names: list[str], targets: Sequence[str], dvc_yaml: Path) -> list[str]:
    """Names of stages that the targets name, alone (``train@lsun``) or as a group (``train``); all without a target."""
    found: dict[str, None] = {}
    for target in targets:
        plain = target.removeprefix(f"{dvc_yaml.as_posix()}:")
        named = [name for name in names if name == plain or name.startswith(f"{plain}@")]
        if not named:
            near = get_close_matches(plain, {*names, *(name.partition("@")[0] for name in names)}, n=3)
            hint = f"; did you mean {', '.join(near)}?" if near else ""
            message = f"{dvc_yaml}: no stage or group '{target}'{hint}; `dvc stage list {dvc_yaml}` names them all"
            raise InputError(message)
        found |= dict.fromkeys(named)
    return list(found) if targets else names


def _changed(stage: "PipelineStage") -> bool:
    from dvc.exceptions import DvcException

    try:
        return bool(stage.status())
    except DvcException:  # a missing params file, a busy output: DVC itself will say it when the stage runs
        return True


def _knows_device(stage: "PipelineStage") -> bool:
    from dvc.dependency.param import ParamsDependency

    return any("compute" in (dep.params or []) for dep in stage.deps if isinstance(dep, ParamsDependency))


class Schedule:
    """Which stages may start now, and how those that ended ended."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._waiting = dict.fromkeys(plan.needs)
        self.outcomes: dict[str, Outcome] = {}
        self.because: dict[str, str] = {}  # stage that was skipped -> the one that failed

    def take_ready(self) -> Iterator[str]:
        """Stages all of whose needs have ended; the caller starts each, or stops asking. Settles those up to date."""
        for stage in list(self._waiting):
            needs = self._plan.needs[stage]
            if stage not in self._waiting or not all(need in self.outcomes for need in needs):
                continue
            if stage not in self._plan.changed and all(self.outcomes[need] == "up to date" for need in needs):
                del self._waiting[stage]
                self.outcomes[stage] = "up to date"
                continue
            yield stage

    def start(self, stage: str) -> None:
        """Count a stage as running."""
        del self._waiting[stage]

    def end(self, stage: str, outcome: Outcome) -> None:
        """Count a stage as ended; if it failed, those that need it are skipped."""
        self.outcomes[stage] = outcome
        if outcome == "failed":
            for dependant in self._plan.dependants(stage):
                if dependant in self._waiting:
                    del self._waiting[dependant]
                    self.outcomes[dependant] = "skipped"
                    self.because[dependant] = stage

    @property
    def n_left(self) -> int:
        """How many have neither started nor ended."""
        return len(self._waiting)


@dataclass
class _Child:
    stage: str
    process: "subprocess.Popen[bytes]"
    log: Path
    gpu: str | None
    started: float

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started


class _View(Protocol):
    def __enter__(self) -> "_View": ...
    def __exit__(self, *error: object) -> None: ...
    def say(self, line: str) -> None: ...
    def show(self, running: Collection[_Child], schedule: Schedule) -> None: ...


def run(targets: Sequence[str], jobs: int | None = None, gpus: Sequence[str] = (), profile: str = "embedded") -> bool:
    """Run what the targets need, ``jobs`` stages at a time; to be called in the project's root.

    Parameters
    ----------
    targets : names of stages or groups; none = the profile's whole graph
    jobs : None = one a GPU, or without GPUs as many as there are processors for the params' ``compute.threads``
    gpus : what ``CUDA_VISIBLE_DEVICES`` is set to, one for each stage that computes; the other stages see no GPU.
        None given: stages see the GPUs that this process sees

    Returns
    -------
    bool
        Whether no stage failed. Failures are printed, with the place of their output.

    Raises
    ------
    InputError
        If a target or profile is unknown, a GPU is named twice, or another fan-out is running here.
    """
    if profile not in lock.PROFILES:
        message = f"run: found the profile '{profile}'; expected {', '.join(lock.PROFILES)}"
        raise InputError(message)
    if len(set(gpus)) < len(gpus) or not all(gpus):
        message = f"run: --gpus {','.join(gpus)}: expected different GPUs, such as 0,1 (nvidia-smi -L lists them)"
        raise InputError(message)
    machine = _compute(profile)
    if gpus and machine.get("device") == "cpu":
        print(f"note: --gpus has no effect: profile {profile} computes on the CPU (params, compute.device)")
    jobs = jobs or len(gpus) or _jobs_of_processors(machine.get("threads"))
    with locked(LOGS / "lock", "another `gan-tables run`"):
        started = time.monotonic()
        plan = make_plan(Path(), profile, targets)
        print(f"{_stages(len(plan.needs))} needed, {len(plan.changed)} changed; {jobs} at a time", flush=True)
        schedule = _run_plan(plan, jobs, list(gpus), LOGS / profile)
        if "done" in schedule.outcomes.values():
            _order_lock(profile)
    for line in summary(schedule, LOGS / profile, time.monotonic() - started):
        print(line)
    return "failed" not in schedule.outcomes.values()


def _compute(profile: str) -> dict[str, Any]:
    """Section ``compute`` of a profile's params as it stands there: stages check it, here it only gives defaults."""
    from pipeline.core import params

    params_file = lock.PROFILES[profile].with_name("params.yaml")
    section = params.read(params_file).get("compute") if params_file.is_file() else None
    return section if isinstance(section, dict) else {}


def _jobs_of_processors(threads: object) -> int:
    each = max(1, threads) if isinstance(threads, int) else 1
    return max(1, len(os.sched_getaffinity(0)) // each) if hasattr(os, "sched_getaffinity") else 1


def _order_lock(profile: str) -> None:
    try:
        lock.order_lock(Path(), lock.PROFILES[profile])
    except (InputError, OSError) as error:  # the order is for people who read diffs: never worth a failed run
        print(f"note: {lock.PROFILES[profile].with_suffix('.lock')} was not put into order: {error}")


def _run_plan(plan: Plan, jobs: int, gpus: list[str], logs: Path) -> Schedule:
    schedule, free = Schedule(plan), list(gpus)
    running: dict[str, _Child] = {}
    logs.mkdir(parents=True, exist_ok=True)
    view: _View = _Screen() if sys.stdout.isatty() else _Lines()
    with stopped_by_signals(), view:
        try:
            while True:
                for stage in schedule.take_ready():
                    computes = bool(gpus) and stage in plan.on_gpu
                    if len(running) >= jobs:
                        break
                    if computes and not free:
                        continue  # one that needs no GPU may still start
                    gpu = free.pop(0) if computes else "" if gpus else None
                    schedule.start(stage)
                    running[stage] = child = _start(stage, logs, gpu)
                    view.say(f"start {stage}{f' on GPU {gpu}' if gpu else ''}: {child.log}")
                view.show(running.values(), schedule)
                if not running:
                    return schedule
                time.sleep(0.1)
                for child in [child for child in running.values() if child.process.poll() is not None]:
                    del running[child.stage]
                    free += [child.gpu] if child.gpu else []
                    outcome = _outcome(child)
                    schedule.end(child.stage, outcome)
                    view.say(f"{outcome} {child.stage}: {duration(child.seconds)}; {_counts(schedule, len(running))}")
        finally:
            stop([child.process for child in running.values()])


def _start(stage: str, logs: Path, gpu: str | None) -> _Child:
    log = log_of(stage, logs)
    # Stages call `python`, and DVC runs them in $SHELL, which need not be a POSIX shell: as in the Makefile.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    env = os.environ | {"PATH": path, "SHELL": "/bin/sh"} | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu})
    dvc = ["--wait-for-lock", "repro", "--single-item", stage]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.project.dvc_child", str(os.getpid()), *dvc],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a group of its own, which can be stopped as a whole
        )
    return _Child(stage, process, log, gpu, time.monotonic())


def log_of(stage: str, logs: Path) -> Path:
    """Where the output of a stage goes; the next run of it replaces it."""
    return logs / (re.sub(r"[^A-Za-z0-9_.@-]+", "_", stage.rpartition(":")[2]) + ".log")


def _outcome(child: _Child) -> Outcome:
    if child.process.returncode:
        return "failed"
    # Anything else that DVC did (ran it, took it from the run cache) may have given other outputs.
    return "up to date" if DID_NOT_CHANGE.search(child.log.read_text(errors="replace")) else "done"


def _counts(schedule: Schedule, n_running: int) -> str:
    return f"{len(schedule.outcomes)} ended, {n_running} running, {schedule.n_left} left"


def _stages(n: int) -> str:
    return "1 stage" if n == 1 else f"{n} stages"


def summary(schedule: Schedule, logs: Path, seconds: float) -> list[str]:
    """What is said at the end: counts, then each failure with the place of its output and what it kept from running."""
    outcomes = list(schedule.outcomes.values())
    said = ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in get_args(Outcome))
    lines = [f"{_stages(len(outcomes))}: {said}; {duration(seconds)}"]
    for stage in (stage for stage, outcome in schedule.outcomes.items() if outcome == "failed"):
        log = log_of(stage, logs)
        lines.append(f"failed: {stage}: {_last_error(log)}; its output: {log}")
        skipped = [other for other, cause in schedule.because.items() if cause == stage]
        lines += [f"  skipped, as they need it: {', '.join(skipped)}"] if skipped else []
    return lines


def _last_error(log: Path) -> str:
    """The sentence that a stage said, else DVC's, else whatever came last."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    for start in ("error: ", "ERROR: ", ""):
        found = [line for line in lines if line.startswith(start)]
        if found:
            return found[-1].removeprefix(start)
    return "it said nothing"


class _Lines:
    """Plain lines: what starts and ends, and now and then what is running."""

    def __init__(self) -> None:
        self._said = time.monotonic()

    def __enter__(self) -> "_Lines":
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def say(self, line: str) -> None:
        self._said = time.monotonic()
        print(line, flush=True)

    def show(self, running: Collection[_Child], schedule: Schedule) -> None:
        if running and time.monotonic() - self._said > SECONDS_BETWEEN_LINES:
            names = ", ".join(f"{child.stage} ({duration(child.seconds)})" for child in running)
            self.say(f"running {names}; {_counts(schedule, len(running))}")


class _Screen:
    """On a terminal: the running stages with their times, redrawn in place, below the lines of those that ended."""

    def __init__(self) -> None:
        from rich.live import Live

        # No thread of its own: the children's death signal follows the thread that started them.
        self._live = Live(auto_refresh=False)
        self._drawn = 0.0

    def __enter__(self) -> "_Screen":
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.update("", refresh=True)
        self._live.stop()

    def say(self, line: str) -> None:
        if not line.startswith("start "):  # the table shows those
            self._live.console.print(line, markup=False, highlight=False)

    def show(self, running: Collection[_Child], schedule: Schedule) -> None:
        from rich.table import Table

        if time.monotonic() - self._drawn < 0.25:
            return
        self._drawn = time.monotonic()
        table = Table("running", "for", "GPU", title=_counts(schedule, len(running)), title_justify="left")
        for child in running:
            table.add_row(child.stage, duration(child.seconds), child.gpu or "")
        self._live.update(table, refresh=True)
