"""Strict params: a section of params.yaml becomes the frozen dataclass that was asked for, or stops with file and key.

Values are read with ruamel.yaml (YAML 1.2), as DVC does: PyYAML (YAML 1.1) reads the ``5e-05`` that DVC writes as text.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, dataclass_transform, get_args, get_origin

import numpy as np
import pydantic.dataclasses
from pydantic import ConfigDict, TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode

from pipeline.core.errors import InputError

Section = TypeVar("Section")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def section(cls: type[Section]) -> type[Section]:
    """Declare a params section: a frozen, keyword-only dataclass; fields are checked strictly and have no defaults."""
    config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    return pydantic.dataclasses.dataclass(cls, frozen=True, kw_only=True, config=config)  # pyright: ignore[reportReturnType]


def read(params_file: Path) -> dict[str, Any]:
    """Parse a params file as DVC does.

    Raises
    ------
    InputError
        If the file is missing or is not a YAML mapping.
    """
    try:
        text = params_file.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        message = f"{params_file}: no such params file; run from the project's root"
        raise InputError(message) from error
    except UnicodeDecodeError as error:
        message = f"{params_file}: not valid UTF-8: {error.reason} at byte {error.start}"
        raise InputError(message) from error
    try:
        values = YAML(typ="safe").load(text)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        message = f"{params_file}, line {line}: not valid YAML: {error.problem}"
        raise InputError(message) from error
    except YAMLError as error:  # such as a control character
        message = f"{params_file}: not valid YAML: {error}"
        raise InputError(message) from error
    except (ValueError, KeyError) as error:  # of a value that YAML takes for a date, 2024-13-45, or that has a tag
        message = f"{params_file}{_line_of_the_unreadable(text)}: not a value that YAML can read: {error}"
        raise InputError(message) from error
    if not isinstance(values, dict):
        message = f"{params_file}: expected a mapping of sections, found {type(values).__name__}"
        raise InputError(message)
    return values


def _line_of_the_unreadable(text: str) -> str:
    """``, line 12`` of the first value that ruamel.yaml parses but cannot turn into a number, a date and so on."""
    yaml = YAML(typ="safe")
    nodes, seen = [yaml.compose(text)], set()
    while nodes:
        node = nodes.pop()
        if isinstance(node, ScalarNode):
            try:
                yaml.constructor.construct_object(node)
            except (ValueError, KeyError):
                return f", line {node.start_mark.line + 1}"
        elif id(node) not in seen:  # an alias may lead back to where its anchor is
            seen.add(id(node))
            pairs = isinstance(node, MappingNode)
            inside = [part for pair in node.value for part in pair] if pairs else node.value
            nodes += reversed(inside)
    return ""


def load(params_file: Path, section_class: type[Section], own: str, *, shared: str | None = None) -> Section:
    """Load one section strictly.

    Parameters
    ----------
    section_class : class decorated with :func:`section`
    own : dotted address of the section, such as ``train.runs.dcgan_mnist``
    shared : address of a parent section whose values hold for all runs; what the run names itself wins

    Raises
    ------
    InputError
        Naming file and key of every missing, unknown or ill-typed value.
    """
    values = read(params_file)
    merged: dict[str, Any] = {}
    home: dict[str, str] = {}  # where each key was read, for the message
    for address in filter(None, (shared, own)):
        found = _lookup(values, address, params_file)
        for key, value in ((str(key), value) for key, value in found.items()):
            if shared and address == shared and key == _child(own, shared):
                continue  # the container of the runs themselves
            merged[key] = value
            home[key] = f"{address}.{key}"
    return _validate(section_class, merged, params_file, own, home, shared)


def not_in_force(params_file: Path, own: str, shared: str) -> list[str]:
    """A sentence for each shared value that a run replaces by another: setting it changes nothing for that run."""
    values = read(params_file)
    common, of_run = _lookup(values, shared, params_file), _lookup(values, own, params_file)
    return [
        f"{shared}.{key} ({common[key]}) is not in force here: {own}.{key} is {value}"
        for key, value in of_run.items()
        if key in common and common[key] != value
    ]


def load_optional(params_file: Path, section_class: type[Section], own: str) -> Section | None:
    """Load one section strictly, or None where the file has a null in its place; errors as :func:`load`."""
    outer, _, key = own.rpartition(".")
    if key in (place := _lookup(read(params_file), outer, params_file)) and place[key] is None:
        return None
    return load(params_file, section_class, own)


def _child(own: str, shared: str) -> str:
    return own.removeprefix(shared + ".").split(".")[0]


def _lookup(values: Mapping[str, Any], address: str, params_file: Path) -> Mapping[str, Any]:
    found: Any = values
    walked: list[str] = []
    for key in address.split("."):
        if not isinstance(found, Mapping) or key not in found:
            place = ".".join(walked) or "the top level"
            keys = ", ".join(map(str, found)) if isinstance(found, Mapping) else type(found).__name__
            message = f"{params_file}, {address}: no key '{key}' at {place}; found {keys}"
            raise InputError(message)
        found = found[key]
        walked.append(key)
    if not isinstance(found, Mapping):
        message = f"{params_file}, {address}: expected a section, found {found!r}"
        raise InputError(message)
    return found


def _validate(
    section_class: type[Section],
    merged: dict[str, Any],
    params_file: Path,
    own: str,
    home: dict[str, str],
    shared: str | None,
) -> Section:
    try:
        # As JSON, because strict Python mode would refuse a dict where a nested section is expected.
        values = json.dumps(merged, default=str)
    except ValueError as error:
        message = f"{params_file}, {own}: a value contains itself, by an anchor (&) and its alias (*)"
        raise InputError(message) from error
    try:
        return TypeAdapter(section_class).validate_json(values)
    except ValidationError as error:
        lines = [
            f"{params_file}, {_say(problem, section_class, own, home, shared)}"
            for problem in error.errors(include_url=False)
        ]
    raise InputError("\n".join(lines))


def _say(problem: Any, section_class: type, own: str, home: dict[str, str], shared: str | None) -> str:
    *outer, key = _keys(section_class, problem["loc"]) or [own]
    place = ".".join([home.get(outer[0], f"{own}.{outer[0]}"), *outer[1:]]) if outer else own
    fields = _fields(section_class, problem["loc"][:-1])
    if problem["type"] == "unexpected_keyword_argument":
        where = home[key].rpartition(".")[0] if not outer else place
        return f"{where}: unknown key '{key}'; expected {', '.join(sorted(fields))}"
    if problem["type"].startswith("missing"):
        either = f" (or {shared}, for all runs)" if shared and not outer else ""
        return f"{place}{either}: missing key '{key}'; expected {', '.join(sorted(fields))}"
    where = f"{place}.{key}" if outer else home.get(key, place)
    if problem["type"] == "union_tag_not_found":
        return f"{where}: missing key 'name', which says what kind of section this is"
    if problem["type"] == "union_tag_invalid":
        return f"{where}.name: expected {problem['ctx']['expected_tags']}, found '{problem['ctx']['tag']}'"
    if problem["type"] == "value_error":  # a section's own __post_init__, which names the keys that do not fit together
        return f"{where}: {problem['ctx']['error']}"
    found = problem["input"]
    hint = ""
    if isinstance(found, str) and problem["type"] in ("float_type", "int_type"):
        hint = _number_hint(found)
    return f"{where}: {problem['msg'].replace('Input', 'value')}, found {found!r}{hint}"


def _number_hint(found: str) -> str:
    try:
        number = float(found)
    except ValueError:
        return ""
    plain = np.format_float_positional(number, trim="-")
    return f", which is text, not a number; write {plain} without quotes"


def _fields(section_class: type, path: tuple[Any, ...]) -> list[str]:
    """Names of the fields of the (nested) section that ``path`` leads to."""
    current: Any = section_class
    for part in path:
        current, _ = _step(current, part)
    return sorted({f.name for c in _choices(current) if dataclasses.is_dataclass(c) for f in dataclasses.fields(c)})


def _keys(section_class: type, path: tuple[Any, ...]) -> list[str]:
    """The keys of ``path``: pydantic puts in between which of several kinds of section was meant."""
    current: Any = section_class
    keys: list[str] = []
    for part in path:
        current, is_key = _step(current, part)
        keys += [str(part)] if is_key else []
    return keys


def _step(current: Any, part: Any) -> tuple[Any, bool]:
    """What a part of a path leads to, and whether it is a key and not the choice of a kind of section."""
    kinds = _choices(current)
    chosen = [kind for kind in kinds if part in _names(kind)] if len(kinds) > 1 else []
    return (chosen[0], False) if chosen else (_child_type(current, part), True)


def _child_type(current: Any, part: Any) -> Any:
    """The type of a field, of a free key's value or of a list's item."""
    for choice in _choices(current):
        if get_origin(choice) in (dict, list):
            return get_args(choice)[-1]
        if dataclasses.is_dataclass(choice):
            types = {f.name: f.type for f in dataclasses.fields(choice)}
            if part in types:
                return types[part]
    return None


def _choices(hint: Any) -> list[Any]:
    """A type without ``None`` and ``Annotated``; of a union each."""
    if get_origin(hint) is Annotated:
        return _choices(get_args(hint)[0])
    if get_origin(hint) is UnionType:
        return [choice for part in get_args(hint) if part is not NoneType for choice in _choices(part)]
    return [hint]


def _names(choice: Any) -> tuple[Any, ...]:
    """The values of the field ``name`` that choose this section among several."""
    return get_args(_child_type(choice, "name")) if dataclasses.is_dataclass(choice) else ()
