"""What the shell offers after `gan-tables ... <Tab>`: names read from the project's files in a moment, without DVC."""

import csv
import re
from pathlib import Path

PROFILE_NAMES = ("embedded", "laptop", "paper")
STAGE = re.compile(r"^  ([A-Za-z_][\w@.-]*):\s*$", re.MULTILINE)  # two blanks deep below `stages:`, in both files


def project_root() -> Path | None:
    """The folder with .dvc and dvc.yaml, here or above."""
    here = Path.cwd()
    return next((at for at in (here, *here.parents) if (at / ".dvc").is_dir() and (at / "dvc.yaml").is_file()), None)


def profiles(incomplete: str) -> list[str]:
    """Profiles that begin so."""
    return [name for name in PROFILE_NAMES if name.startswith(incomplete)]


def stages(incomplete: str) -> list[str]:
    """Stages that have run in some profile, and groups, that begin so: the lock spells out what `foreach` makes."""
    root = project_root()
    files = [] if root is None else [root / "dvc.yaml", *(root / place / "dvc.lock" for place in ("", *_twins(root)))]
    found = {name for file in files if file.is_file() for name in STAGE.findall(_after_stages(file.read_text("utf-8")))}
    return sorted(name for name in found if name.startswith(incomplete))


def claims(incomplete: str) -> list[str]:
    """Claims of the committed table that begin so."""
    root = project_root()
    table = root / "reports/embedded/tables/claims.csv" if root else None
    if table is None or not table.is_file():
        return []
    with table.open(encoding="utf-8", newline="") as file:
        found = dict.fromkeys(row.get("claim") or "" for row in csv.DictReader(file))
    return [name for name in found if name and name.startswith(incomplete)]


def _twins(root: Path) -> list[str]:
    return sorted(path.parent.relative_to(root).as_posix() for path in root.glob("profiles/*/dvc.lock"))


def _after_stages(text: str) -> str:
    """The section `stages:` of a dvc.yaml or dvc.lock."""
    section = re.split(r"^stages:\s*$", text, maxsplit=1, flags=re.MULTILINE)[-1]
    return re.split(r"^\S", section, maxsplit=1, flags=re.MULTILINE)[0]
