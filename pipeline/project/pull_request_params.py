"""Params of all profiles, base beside head: nested keys, one line for profiles that change alike."""

import json
from collections.abc import Iterator
from typing import Any

from pipeline.core.errors import InputError
from pipeline.project.pull_request_sections import Section, code, count, table
from pipeline.project.pull_request_sides import Pair, Side
from pipeline.project.twins import TWINS

FILES = {"embedded": "params.yaml"} | {twin: f"profiles/{twin}/params.yaml" for twin in TWINS}

Change = tuple[str, str]  # what base and head have


def section(pair: Pair) -> Section:
    """The keys whose values differ."""
    found = Section("Params", "not compared")
    if pair.base is None:
        return found
    by_change: dict[tuple[str, Change], list[str]] = {}  # key and change -> profiles
    for profile, path in FILES.items():
        if pair.base.blobs.get(path) == pair.head.blobs.get(path):
            continue
        base, head = _params(pair.base, path, "base", found), _params(pair.head, path, "head", found)
        if base is not None and head is not None:
            for key, change in _changes(base, head):
                by_change.setdefault((key, change), []).append(profile)
    place = {key: n for n, (key, _) in reversed(list(enumerate(by_change)))}  # of a key where it stands first
    in_order = sorted(by_change.items(), key=lambda item: place[item[0][0]])
    rows = [[code(key), ", ".join(profiles), *change] for (key, change), profiles in in_order]
    if rows:
        n_profiles = len({profile for profiles in by_change.values() for profile in profiles})
        n_keys = len({key for key, _ in by_change})
        found.summary = f"{count(n_keys, 'key')} changed in {count(n_profiles, 'profile')}"
        found.blocks = [table(["key", "profiles", "base", "head"], rows, title=found.summary)]
    elif not found.problems:
        found.summary = "unchanged"
    return found


def _params(side: Side, path: str, name: str, found: Section) -> dict[Any, Any] | None:
    """The parsed file; None, and a sentence, where it cannot be read."""
    try:
        return _parsed(side, path)
    except InputError as error:
        found.problems.append(f"{path} of {name}: {error}")
        return None


def _parsed(side: Side, path: str) -> dict[Any, Any]:
    from ruamel.yaml import YAML  # YAML 1.2, as DVC reads it
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    content = side.text(path)
    if content is None:
        message = "no such file"
        raise InputError(message)
    try:
        values = YAML(typ="safe").load(content)
    except MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        message = f"not valid YAML: {line}{error.problem}"
        raise InputError(message) from error
    except YAMLError as error:
        message = f"not valid YAML: {error}"
        raise InputError(message) from error
    if not isinstance(values, dict):
        message = f"expected a mapping of sections, found {type(values).__name__}"
        raise InputError(message)
    return values


def _changes(base: dict[Any, Any], head: dict[Any, Any], above: str = "") -> Iterator[tuple[str, Change]]:
    """In head's order; what is gone comes last. A section that only one side has is one change."""
    for name in [*head, *(name for name in base if name not in head)]:
        key = f"{above}{name}"
        if name not in base:
            yield key, ("new", _written(head[name]))
        elif name not in head:
            yield key, (_written(base[name]), "removed")
        elif isinstance(base[name], dict) and isinstance(head[name], dict):
            yield from _changes(base[name], head[name], f"{key}.")
        elif _json(base[name]) != _json(head[name]):
            yield key, (_written(base[name]), _written(head[name]))


def _written(value: Any) -> str:
    """``0.5``, or ``24 keys: {"dataset": ...}``."""
    n_keys = f"{count(_n_leaves(value), 'key')}: " if isinstance(value, dict) else ""
    return n_keys + code(_json(value), longest=60 if n_keys else 120)


def _n_leaves(value: Any) -> int:
    return sum(map(_n_leaves, value.values())) if isinstance(value, dict) else 1


def _json(value: Any) -> str:
    try:
        return json.dumps(value, default=str, ensure_ascii=False)
    except TypeError:  # keys that JSON does not have, such as a date
        return repr(value)
