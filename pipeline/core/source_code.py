"""Which of the project's own files a script runs: a walk over its import statements, without importing anything.

Used twice: the tests compare it with the ``deps`` of each stage, and only the same code may resume a half-finished run.
"""

import ast
import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

OWN_PACKAGES = ("pipeline", "stages")


def imported_files(script: Path, root: Path = Path()) -> list[Path]:
    """All files of the project that ``script`` imports, directly or not, lazily or not; itself included; sorted."""
    seen: set[Path] = set()
    waiting = [script]
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        waiting.extend(_imports_of(root / path, root))
    return sorted(seen)


def fingerprint(paths: Iterable[Path], root: Path = Path()) -> str:
    """sha256 over names and bytes of files, and of folders' files, in sorted order."""
    digest = hashlib.sha256()
    for path in sorted(_files(paths, root)):
        digest.update(f"{path.as_posix()}\0".encode())
        with (root / path).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _files(paths: Iterable[Path], root: Path) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        if (root / path).is_dir():
            found += [path / inner.relative_to(root / path) for inner in (root / path).rglob("*") if inner.is_file()]
        else:
            found.append(path)
    return found


@cache
def _imports_of(path: Path, root: Path) -> tuple[Path, ...]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(root).parts[: -node.level] if node.level else ()  # from . import x
            module = ".".join([*package, *([node.module] if node.module else [])])
            names.add(module)
            names.update(f"{module}.{alias.name}" for alias in node.names)
    found: set[Path] = set()
    for name in names:
        parts = name.split(".")
        if parts[0] not in OWN_PACKAGES:
            continue
        for end in range(1, len(parts) + 1):  # importing a.b.c also runs a/__init__ and a/b/__init__
            base = Path(*parts[:end])
            for candidate in (base.with_suffix(".py"), base / "__init__.py"):
                if (root / candidate).is_file():
                    found.add(candidate)
    return tuple(sorted(found))
