"""The two states that a pull request's comment compares, read from Git objects: no data, no cache, no network."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.core.errors import InputError
from pipeline.project.git import git

READ = ("params.yaml", "profiles", "reports")  # what a comment is made from
FETCH = "git fetch origin main"
FETCH_SHALLOW = "git fetch --depth 1 origin main:refs/remotes/origin/main"


@dataclass(frozen=True)
class Side:
    """Base or head: the files of a commit, or of the working tree over it.

    Attributes
    ----------
    commit : full name of the commit
    blobs : path -> name of its content; equal names are equal bytes
    uncommitted : paths whose content is that of the working tree
    """

    root: Path
    commit: str
    blobs: Mapping[str, str] = field(repr=False)
    uncommitted: frozenset[str] = frozenset()

    @property
    def short(self) -> str:
        """The commit as people write it."""
        return self.commit[:7]

    def read(self, path: str) -> bytes | None:
        """Content of a file; None where this side does not have it."""
        if path not in self.blobs:
            return None
        if path in self.uncommitted:
            return (self.root / path).read_bytes()
        return git("cat-file", "blob", self.blobs[path], root=self.root)

    def text(self, path: str) -> str | None:
        """As :meth:`read`, decoded.

        Raises
        ------
        InputError
            If the file is not UTF-8.
        """
        content = self.read(path)
        try:
            return None if content is None else content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            message = f"not valid UTF-8: {error.reason} at byte {error.start}"
            raise InputError(message) from error


@dataclass(frozen=True)
class Pair:
    """What is compared, and what a reader has to know of the choice."""

    base: Side | None  # None: its name means nothing here
    head: Side
    notes: list[str]
    problems: list[str]
    head_is_checkout: bool  # its code and lock lie in the working tree

    def changed(self, *, under: str, suffixes: tuple[str, ...]) -> list[str]:
        """Paths of ``reports/*/<under>/`` whose bytes are not the same on both sides, in order."""
        if self.base is None:
            return []
        paths = set(self.base.blobs) | set(self.head.blobs)
        return sorted(
            path
            for path in paths
            if (parts := path.split("/"))[0] == "reports"
            and len(parts) == 4
            and parts[2] == under
            and path.endswith(suffixes)
            and self.base.blobs.get(path) != self.head.blobs.get(path)
        )


def for_pull_request(root: Path, base: str) -> Pair:
    """The commit at which the branch left ``base``, and the working tree.

    Where a shallow clone does not reach back to that commit, the tip of ``base`` takes its place, and a note says so.

    Raises
    ------
    InputError
        If this is no Git checkout, or one without a commit.
    """
    head_commit = _commit(root, "HEAD")
    if head_commit is None:
        message = f"{root.resolve()}: no Git checkout, or no commit yet; run in a checkout of the project"
        raise InputError(message)
    head, notes = _working_tree(root, head_commit)
    tip = _commit(root, base)
    shown = os.environ.get("GITHUB_BASE_REF", "").replace("`", "") or base  # as readers of the comment know it
    if tip is None:
        return Pair(None, head, notes, [_unknown(base)], head_is_checkout=True)
    start = _merge_base(root, tip, head_commit)
    if start is None:
        notes.append(
            f"No common commit of `{shown}` and head is in this clone: head is compared with the tip of `{shown}`, so "
            f"what changed there since the branch began looks undone here. {_deepen(root)}"
        )
    elif start != tip:
        notes.append(f"Base is where the branch left `{shown}`, whose tip is `{tip[:7]}` by now.")
    side = _side(root, start or tip)
    problems = _without_reports(side, "base") + _without_reports(head, "head")
    return Pair(side, head, notes, problems, head_is_checkout=True)


def of_revisions(root: Path, base: str, head: str) -> Pair:
    """Two revisions as they are named.

    Raises
    ------
    InputError
        If one of them is unknown here.
    """
    before, after = (_side(root, _known(root, name)) for name in (base, head))
    problems = _without_reports(before, "base") + _without_reports(after, "head")
    return Pair(before, after, [], problems, head_is_checkout=False)


def _known(root: Path, name: str) -> str:
    commit = _commit(root, name)
    if commit is None:
        raise InputError(_unknown(name))
    return commit


def _commit(root: Path, name: str) -> str | None:
    if not name.strip():
        return None
    try:
        return (
            git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}", root=root)
            .decode()
            .strip()
        )
    except InputError:
        return None


def _merge_base(root: Path, base: str, head: str) -> str | None:
    try:
        return git("merge-base", base, head, root=root).decode().strip() or None
    except InputError:
        return None


def _side(root: Path, commit: str) -> Side:
    listing = git("ls-tree", "-r", "-z", commit, "--", *READ, root=root).decode(errors="surrogateescape")
    entries = [entry.partition("\t") for entry in filter(None, listing.split("\0"))]
    return Side(root, commit, {path: about.split()[2] for about, _, path in entries if about.split()[1] == "blob"})


def _working_tree(root: Path, commit: str) -> tuple[Side, list[str]]:
    """The commit's files with what is not committed laid over them."""
    side = _side(root, commit)
    uncommitted = _uncommitted(root)
    blobs = dict(side.blobs)
    there = [path for path in uncommitted if (root / path).is_file()]
    for path in uncommitted:
        blobs.pop(path, None)
    read = [path for path in there if path.split("/")[0] in READ]
    names = git("hash-object", "--", *read, root=root).decode().split() if read else []
    blobs |= dict(zip(read, names, strict=True))
    if not uncommitted:
        return side, []
    n_files = f"{len(uncommitted)} file{'s' if len(uncommitted) > 1 else ''}"
    note = f"Head is the working tree with uncommitted changes in {n_files}, over commit `{side.short}`."
    return Side(root, commit, blobs, frozenset(read)), [note]


def _uncommitted(root: Path) -> list[str]:
    """Paths that are changed, new or deleted in the working tree; of a rename both."""
    options = ("--porcelain", "-z", "--untracked-files=all", "--no-renames")
    listing = git("status", *options, root=root).decode(errors="surrogateescape")
    return [entry[3:] for entry in listing.split("\0") if entry]


def _unknown(name: str) -> str:
    found = f"'{name}' is no commit, branch or tag that this clone knows"
    return f"{found}; fetch it first: `{FETCH}`, in a shallow clone `{FETCH_SHALLOW}`"


def _deepen(root: Path) -> str:
    shallow = git("rev-parse", "--is-shallow-repository", root=root).decode().strip() == "true"
    return "`git fetch --unshallow` gives the clone its history." if shallow else "The two have no history in common."


def _without_reports(side: Side, name: str) -> list[str]:
    if any(path.startswith("reports/") for path in side.blobs):
        return []
    return [f"{name} `{side.short}` has no reports/: there are no tables or figures to compare with"]
