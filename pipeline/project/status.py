"""What is up to date, what is reproduced, what is missing and how to get it, and how long the stages took.

Answered from dvc.lock, the committed tables and the run record: no data, no GPU, in a moment. Comparing the lock files
takes seconds, so the answer is kept until one of the files that it was made from changes.
"""

import csv
import hashlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import InputError
from pipeline.core.files import write_text
from pipeline.core.stage import RUN_RECORD
from pipeline.project.lock import PROFILES, Problem, entries_of, open_repo, problems_of, stages_of

if TYPE_CHECKING:
    from dvc.repo import Repo

FIELDS = {"stage": str, "started": (int, float), "seconds": (int, float), "status": str}
KEPT = Path(".work/status.json")
DVC_FILES = ("dvc.yaml", "dvc.lock", "params.yaml")
N_LONGEST = 5
N_NAMED = 6  # stages of one kind that a line names


@dataclass(frozen=True)
class ProfileState:
    """One profile's lock, compared with its graph.

    Attributes
    ----------
    stages : addresses, such as ``profiles/laptop/dvc.yaml:train@lsun``, in the order of dvc.yaml
    problems : as ``lock.stale_stages`` finds them
    cached : outputs that DVC's cache holds (never Git), of the stages that have run
    """

    stages: list[str]
    problems: list[Problem]
    cached: list[str]


def profile_states(root: Path = Path()) -> dict[str, ProfileState]:
    """The state of each profile; kept in ``.work/status.json`` until a file that decides it changes.

    Raises
    ------
    InputError
        If DVC cannot read the project.
    """
    kept = _read_kept(root)
    if kept is not None:
        return kept
    if sys.stderr.isatty():
        print("comparing the dvc.lock files with the graph, once after a change ...", file=sys.stderr)
    dvc_files = _signature(root, [])
    states, watched, signature = _compare_locks(root)
    if dvc_files != _signature(root, []) or signature != _signature(root, watched):
        return states  # a stage ended meanwhile, say: of which of the two states they are is not known
    content = {
        "watched": watched,
        "signature": signature,
        "profiles": {name: asdict(state) for name, state in states.items()},
    }
    try:
        write_text(root / KEPT, json.dumps(content) + "\n")
    except (OSError, InputError) as error:  # a checkout that may not be written
        print(f"note: {error}", file=sys.stderr)
    return states


def _compare_locks(root: Path) -> tuple[dict[str, ProfileState], list[str], str]:
    """The states, the files and folders in Git that they are made from, and the signature of these before that."""
    states: dict[str, ProfileState] = {}
    with open_repo(root) as repo:
        watched = _watched(repo)
        signature = _signature(root, watched)
        for profile, dvc_yaml in PROFILES.items():
            if not (root / dvc_yaml).is_file():
                continue
            stages = stages_of(repo, root, dvc_yaml)
            entries = entries_of(stages)
            have_run = [stage for name, stage in stages.items() if name in entries]
            cached = [out.def_path for stage in have_run for out in stage.outs if out.use_cache]
            addresses = [str(stage.addressing) for stage in stages.values()]
            states[profile] = ProfileState(addresses, problems_of(repo, stages), cached)
    return states, watched, signature


def _watched(repo: "Repo") -> list[str]:
    """Files and folders of the root that Git tracks and that some stage reads or writes."""
    items = [item for stage in repo.index.stages for item in [*stage.deps, *stage.outs]]
    return sorted({Path(item.fs_path).relative_to(repo.root_dir).parts[0] for item in items} - {"data"})


def _signature(root: Path, watched: list[str]) -> str:
    """Changes when a file that was read is edited, added or removed: names, sizes and times, as DVC's own state has."""
    digest = hashlib.sha256()
    for path in _files(root, watched):
        found = path.stat()
        digest.update(f"{path.relative_to(root)}\0{found.st_size}\0{found.st_mtime_ns}\0{found.st_ino}\n".encode())
    return digest.hexdigest()


def _files(root: Path, watched: list[str]) -> Iterator[Path]:
    folders = {root / dvc_yaml.parent for dvc_yaml in PROFILES.values()}
    files = {folder / name for folder in folders for name in DVC_FILES} | {root / ".dvcignore", Path(__file__)}
    for name in watched:
        files.add(root / name)
        for folder, folders_inside, names in os.walk(root / name):
            folders_inside[:] = [inside for inside in folders_inside if inside != "__pycache__"]
            files |= {Path(folder) / inside for inside in names}
    yield from sorted(path for path in files if path.is_file() and path.is_relative_to(root))


def _read_kept(root: Path) -> dict[str, ProfileState] | None:
    try:
        content = json.loads((root / KEPT).read_text(encoding="utf-8"))
        if content["signature"] != _signature(root, content["watched"]):
            return None
        return {
            name: ProfileState(state["stages"], [Problem(**problem) for problem in state["problems"]], state["cached"])
            for name, state in content["profiles"].items()
        }
    except (OSError, ValueError, KeyError, TypeError):
        return None


def print_status(*, times: bool = False, root: Path = Path()) -> None:
    """Print the four parts; one that cannot be told says why in a sentence, and the others still come."""
    states: dict[str, ProfileState] = {}
    try:
        states = profile_states(root)
    except InputError as error:
        print(f"up to date: not known: {error}")
    for part in (
        _up_to_date(states),
        _reproduced(root),
        _missing(root, states),
        _took(states, root / RUN_RECORD, times),
    ):
        for line in part:
            print(line)


def _up_to_date(states: dict[str, ProfileState]) -> Iterator[str]:
    if states:
        yield "Up to date, as dvc.lock has it:"
    for profile, state in states.items():
        kinds = _kinds(state.problems)
        counts = Counter(kinds.values())
        said = ", ".join(f"{counts[kind]} {say}" for kind, say in SAID.items() if counts[kind])
        fresh = len(state.stages) - len(kinds)
        yield f"  {profile}: {fresh} of {len(state.stages)} stages{f'; {said}' if said else ''}"


SAID = {"stale": "stale", "code": "run with other code", "never run": "never run"}


def _kinds(problems: list[Problem]) -> dict[str, str]:
    """Stage -> the gravest kind of its problems."""
    found: dict[str, str] = {}
    for problem in problems:
        if found.get(problem.stage) != "stale":
            found[problem.stage] = problem.kind
    return found


def _reproduced(root: Path) -> Iterator[str]:
    """How many of the published cells that are regenerated have a measured number, by table and profile."""
    cells = {profile: measured_cells(root, profile) for profile in PROFILES}
    tables = list(dict.fromkeys(table for found in cells.values() for table in found))
    if not tables:
        yield "Reproduced: no tables are here yet; `make repro` makes them"
        return
    yield "Reproduced, cells of the papers' tables that were measured:"
    width = max(map(len, tables))
    for table in tables:
        counts = [
            f"{profile} {found[table][0]} of {found[table][1]}" for profile, found in cells.items() if table in found
        ]
        yield f"  {table:<{width}}  " + ", ".join(counts)


def measured_cells(root: Path, profile: str) -> dict[str, tuple[int, int]]:
    """Table -> (measured, all) of the cells that this project regenerates; tables without such cells are left out."""
    found: dict[str, tuple[int, int]] = {}
    for table, rows in _tables(root, profile):
        ours = [row for row in rows if row.get("kind") == "ours"]
        if ours:
            found[table] = (sum(bool(row.get("measured")) for row in ours), len(ours))
    return found


def _tables(root: Path, profile: str) -> Iterator[tuple[str, list[dict[str, str]]]]:
    for path in sorted((root / "reports" / profile / "tables").glob("*.csv")):
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            yield path.stem, list(csv.DictReader(file))


def _missing(root: Path, states: dict[str, ProfileState]) -> Iterator[str]:
    lines = [line for profile in PROFILES for line in _missing_of(root, profile, states.get(profile))]
    yield "Missing:" if lines else "Missing: nothing"
    yield from lines


def _missing_of(root: Path, profile: str, state: ProfileState | None) -> Iterator[str]:
    if state:
        lacking = [path for path in state.cached if not (root / path).exists()]
        if lacking:
            what = f"data of {len(lacking)} of {len(state.cached)} outputs ({lacking[0]}, ...)"
            how = f"`dvc checkout {PROFILES[profile]}` if the cache has them, else {_else(root, profile)}"
            yield f"  {profile}: {what}: {how}"
        kinds = _kinds(state.problems)
        for kind, say in SAID.items():
            stages = [stage for stage, found in kinds.items() if found == kind]
            if stages and not (kind == "code" and profile != "embedded"):
                yield f"  {profile}: {say}: {_named(stages)}: `{_how_to_run(profile)}`"
    if (root / PROFILES[profile].with_name("params.yaml")).is_file():
        yield from _missing_real_data(root, profile)
    notes: Counter[str] = Counter()
    for _, rows in _tables(root, profile):
        empty = [row for row in rows if row.get("kind") == "ours" and not row.get("measured")]
        notes.update(row.get("note") or "no note says why" for row in empty)
    for note, n in notes.most_common(3):
        yield f"  {profile}: {n} {'cell' if n == 1 else 'cells'} not measured: {note}"
    if len(notes) > 3:
        rest = sum(notes.values()) - sum(n for _, n in notes.most_common(3))
        yield f"  {profile}: {rest} more not measured, for other reasons: the notes in reports/{profile}/tables"


def _named(stages: list[str]) -> str:
    more = f" and {len(stages) - N_NAMED} more" if len(stages) > N_NAMED else ""
    return ", ".join(stages[:N_NAMED]) + more


def _how_to_run(profile: str) -> str:
    return "make repro" if profile == "embedded" else f"gan-tables run --profile {profile}"


def _else(root: Path, profile: str) -> str:
    configs = [root / ".dvc/config", root / ".dvc/config.local"]
    if any("remote" in path.read_text(encoding="utf-8") for path in configs if path.is_file()):
        return "`dvc pull`"
    return f"`{_how_to_run(profile)}` (no remote is set up to pull from)"


def _missing_real_data(root: Path, profile: str) -> Iterator[str]:
    from pipeline.project import data_check

    try:
        found = data_check.check(profile, root, hashing=False)
    except InputError as error:
        yield f"  {profile}: real data: {error}"
        return
    names = list(dict.fromkeys(entry.data_set for entry in found if entry.state == "missing"))
    if names:
        yield f"  {profile}: real data of {', '.join(names)}: `gan-tables data check {profile}` says where they belong"


def latest_runs(record: Path = RUN_RECORD) -> list[dict[str, Any]]:
    """The last run of each stage, in the order in which they started; lines cut short by a kill are left out."""
    if not record.is_file():
        return []
    latest: dict[str, dict[str, Any]] = {}
    for line in record.read_text(encoding="utf-8", errors="replace").splitlines():
        row = _parsed(line)
        if row:
            latest[row["stage"]] = row
    return sorted(latest.values(), key=lambda row: row["started"])


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    complete = isinstance(row, dict) and all(isinstance(row.get(key), kind) for key, kind in FIELDS.items())
    return row if complete else None


def _took(states: dict[str, ProfileState], record: Path, times: bool) -> Iterator[str]:
    """How long the stages took when they last ran here; those that DVC ran, not what was tried by hand."""
    rows = latest_runs(record)
    if states:
        known = {stage for state in states.values() for stage in state.stages}
        rows = [row for row in rows if row["stage"].removeprefix("dvc.yaml:") in known]
    if not rows:
        yield "Times: no stage has run here yet; `make repro` runs them"
        return
    if times:
        yield "Times, of the last run of each stage here:"
        yield from _full_list(rows)
        return
    yield "Times, of the last run of each stage here (`gan-tables status --times` lists them all):"
    for profile, dvc_yaml in PROFILES.items():
        own = [row for row in rows if _profile_of(row["stage"]) == profile]
        if own:
            longest = sorted(own, key=lambda row: -row["seconds"])[:N_LONGEST]
            names = ", ".join(f"{row['stage'].rpartition(':')[2]} {duration(row['seconds'])}" for row in longest)
            yield f"  {profile}: {len(own)} stages, {duration(sum(row['seconds'] for row in own))}; longest: {names}"
            failed = [row["stage"] for row in own if row["status"] != "done"]
            if failed:
                yield f"  {profile}: failed when last run: {_named(failed)}: `dvc --wait-for-lock repro {dvc_yaml}`"


def _profile_of(address: str) -> str:
    folder = Path(address.rpartition(":")[0] or "dvc.yaml").parent.name
    return folder if folder in PROFILES else "embedded"


def _full_list(rows: list[dict[str, Any]]) -> Iterator[str]:
    """A table on a terminal, tab-separated lines elsewhere, and the sum."""
    total = sum(row["seconds"] for row in rows)
    cells = [
        (row["stage"], _clock(row["started"]), duration(row["seconds"]), row["status"], _rate(row)) for row in rows
    ]
    if sys.stdout.isatty():
        yield from _table(cells, total)
        return
    for cell in cells:
        yield "\t".join(cell)
    yield f"sum\t\t{duration(total)}\t\t"


def _table(cells: list[tuple[str, ...]], total: float) -> Iterator[str]:
    from rich.console import Console
    from rich.table import Table

    table = Table("stage", "started", "took", "status", "worked through", show_footer=True)
    table.columns[0].footer = "sum"
    table.columns[2].footer = duration(total)
    table.columns[2].justify = "right"
    for cell in cells:
        table.add_row(*cell)
    console = Console()
    with console.capture() as captured:
        console.print(table)
    yield captured.get().rstrip("\n")


def _rate(row: dict[str, Any]) -> str:
    """``6,900 images, 1,468 a second``, where the stage counted something."""
    amounts = {name: n for name, n in row.items() if name not in FIELDS and isinstance(n, int)}
    return "; ".join(f"{n:,} {name}, {n / max(row['seconds'], 0.01):,.0f} a second" for name, n in amounts.items())


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def duration(seconds: float) -> str:
    """``0.5 s``, ``1 min 15 s`` or ``1 h 02 min 05 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min {rest:02d} s" if hours else f"{minutes} min {rest:02d} s"
