"""What each training run rests on: hashes of its params, its data and its code.

From the records of the runs alone: ``run.json``, and the hashes of stage `provenance` where it has been run. Neither
dvc.lock nor Git says it, since both change after the report has been written.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.errors import InputError
from pipeline.models.store import RUN_FILE

PROVENANCE_FILE = "provenance.json"
NOT_RECORDED = "not recorded"
MACHINE = ("device", "instruction_set", "precision", "threads", "processes")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training run.

    Attributes
    ----------
    params : sha256 of the params in force, as JSON with sorted keys and without spaces
    data : sha256 over the names and bytes of the image set; ``NOT_RECORDED`` without a record of it
    code : sha256 over the names and bytes of all files that the training script imports, and itself
    networks : sha256 of networks.safetensors
    machine : what decides the bytes besides
    settings : the params in force, nested keys joined by dots
    """

    name: str
    dataset: str
    params: str
    data: str
    code: str
    networks: str
    machine: dict[str, str]
    settings: dict[str, str]


def params_hash(params: dict[str, Any]) -> str:
    """sha256 of params: the same for the same values, in whatever order they were written."""
    return hashlib.sha256(json.dumps(params, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_hashes(records: Path) -> dict[str, dict[str, str]]:
    """``code``, ``data`` and ``networks`` of each run, by its name; empty where stage `provenance` has not been run."""
    return _read(records / PROVENANCE_FILE)


def read_runs(records: Path, hashes: dict[str, dict[str, str]], depth: int = 1) -> list[Run]:
    """Of every folder ``depth`` levels below ``records``, in order; none if there is no such folder.

    Raises
    ------
    InputError
        If a record is not JSON, or says nothing of its params.
    """
    folders = sorted(path for path in records.glob("/".join("*" * depth)) if path.is_dir())
    return [run for folder in folders if (run := _read_run(folder, hashes.get(folder.name, {}))) is not None]


def _read_run(folder: Path, recorded: dict[str, str]) -> Run | None:
    run = _read(folder / RUN_FILE)
    if not run:
        return None
    if "params" not in run:
        message = f"{folder}: its record has no 'params'; remove the folder and run dvc repro report"
        raise InputError(message)
    return Run(
        name=folder.name,
        dataset=str(run["params"].get("dataset", "")),
        params=params_hash(run["params"]),
        machine={name: str(run[name]) for name in MACHINE if name in run},
        settings=dict(_flat(run["params"])),
        **{name: recorded.get(name, NOT_RECORDED) for name in ("data", "code", "networks")},
    )


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        message = f"{path}: not valid JSON ({error}); remove it and run dvc repro report"
        raise InputError(message) from error


def _flat(values: dict[str, Any], before: str = "") -> list[tuple[str, str]]:
    """``{"a": {"b": [1, 2]}}`` -> ``a.b`` and ``1, 2``, in the order of the keys."""
    found: list[tuple[str, str]] = []
    for key, value in sorted(values.items()):
        if isinstance(value, dict) and value:
            found += _flat(value, f"{before}{key}.")
        else:
            found.append((f"{before}{key}", _told(value)))
    return found


def _told(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_told, value))
    return value if isinstance(value, str) else json.dumps(value)
