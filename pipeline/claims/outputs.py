"""Where the results of an arm lie: its dvc.lock says which bytes, DVC's cache has them."""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.core.errors import InputError
from pipeline.project.git import git

CachePath = Callable[[str], Path]  # md5 -> where the cache keeps these bytes


@dataclass(frozen=True, kw_only=True)
class LockedOutputs:
    """The outputs that one dvc.lock records.

    Attributes
    ----------
    who : for messages: ``the committed results``, or an arm
    locked : output -> md5, folders with ``.dir``
    cache_path : of DVC's cache
    reports : root of the checkout whose reports (in Git, not in the cache) may be read; None = they may not
    remedy : what to do where bytes are missing
    stale : outputs of other code, params or data than there are now: compared with an arm, they would show those, too
    not_made : outputs that no target of an arm needs: its dvc.lock has the committed ones, without the ablation
    """

    who: str
    locked: dict[str, str]
    cache_path: CachePath
    reports: Path | None
    remedy: str
    stale: frozenset[str] = frozenset()
    not_made: frozenset[str] = frozenset()

    def path(self, name: str) -> Path:
        """Where the bytes of an output, or of a file in an output folder, lie.

        Raises
        ------
        InputError
            If dvc.lock has no such output, it is stale or the arm does not make it, or the cache does not have its
            bytes.
        """
        names = {name, *map(str, PurePosixPath(name).parents)}
        if self.not_made & names:
            message = f"{self.who}: its targets do not make {name}; add the stage to ablations.arms.targets"
            raise InputError(message)
        if self.stale & names:
            message = f"{self.who}: {name} is of other code, params or data than there are now; {self.remedy}"
            raise InputError(message)
        if self.reports is not None and name.startswith("reports/"):
            return self._existing(self.reports / name, name)
        if name in self.locked:
            return self._existing(self.cache_path(self.locked[name]), name)
        for folder in PurePosixPath(name).parents:
            if str(folder) in self.locked:
                listing = json.loads(self._existing(self.cache_path(self.locked[str(folder)]), name).read_text())
                inside = {entry["relpath"]: entry["md5"] for entry in listing}
                relative = PurePosixPath(name).relative_to(folder).as_posix()
                if relative in inside:
                    return self._existing(self.cache_path(inside[relative]), name)
        message = f"{self.who}: dvc.lock has no output {name}; {self.remedy}"
        raise InputError(message)

    def _existing(self, path: Path, name: str) -> Path:
        if not path.is_file():
            message = f"{self.who}: {name} is not in DVC's cache; {self.remedy}"
            raise InputError(message)
        return path


def committed(root: Path, cache_path: CachePath, stale: frozenset[str] = frozenset()) -> LockedOutputs:
    """The embedded results as dvc.lock has them, but for those that are ``stale``."""
    lock = root / "dvc.lock"
    text = lock.read_text(encoding="utf-8") if lock.is_file() else ""
    return LockedOutputs(
        who="the committed results",
        locked=locked_outputs(text),
        cache_path=cache_path,
        reports=root,
        remedy="run `make repro` first",
        stale=stale,
    )


def of_experiment(
    root: Path, arm: str, revision: str, cache_path: CachePath, not_made: frozenset[str]
) -> LockedOutputs:
    """The results of an experiment's commit, but for those that are the committed ones there, ``not_made``."""
    try:
        lock = git("show", f"{revision}:dvc.lock", root=root).decode()
    except InputError as error:
        message = (
            f"arm {arm}: its experiment ({revision[:7]}) has no dvc.lock; remove it with `dvc exp remove` and run "
        )
        message += "the arm again"
        raise InputError(message) from error
    remedy = "remove its experiment with `dvc exp remove`, and run the arm again"
    return LockedOutputs(
        who=f"arm {arm}",
        locked=locked_outputs(lock),
        cache_path=cache_path,
        reports=None,
        remedy=remedy,
        not_made=not_made,
    )


def locked_outputs(lock_text: str) -> dict[str, str]:
    """output -> md5 of all stages of a dvc.lock."""
    from ruamel.yaml import YAML

    lock: dict[str, Any] = YAML(typ="safe").load(io.StringIO(lock_text)) or {}
    return {
        out["path"]: out["md5"]
        for stage in lock.get("stages", {}).values()
        for out in stage.get("outs", [])
        if "md5" in out
    }
