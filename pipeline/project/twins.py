"""Write profiles/{laptop,paper}/dvc.yaml from the parsed root file: the same graph over another params file."""

import re
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.core.files import write_text

TWINS = ("laptop", "paper")
HEADER = "# Generated from the root dvc.yaml by `make profiles`; edit that file.\n"
# Outside the embedded profile these pictures show photographs of people, homes and ImageNet: never in Git.
SHEETS = ("reports/${profile}/sheets", "data/${profile}/sheets")
PARAMS_FILE = re.compile(r"(?<![\w./])params\.yaml\b")


def write_twins(root: Path = Path()) -> None:
    """Regenerate the dvc.yaml of every twin profile."""
    for profile in TWINS:
        write_text(root / "profiles" / profile / "dvc.yaml", twin(root, profile))


def twin(root: Path, profile: str) -> str:
    """The text of a twin's dvc.yaml.

    Stages get ``wdir: ../..``, so that all their paths stay relative to the project's root, and the twin's params file.
    Top-level plots, metrics and artifacts know no ``wdir``: their paths get ``../../``.
    """
    graph = YAML(typ="safe").load((root / "dvc.yaml").read_text(encoding="utf-8"))
    params_file = f"profiles/{profile}/params.yaml"
    for name, entry in graph["stages"].items():
        body = entry.get("do", entry)
        body = {"wdir": "../..", **body, "cmd": PARAMS_FILE.sub(params_file, body["cmd"])}
        body |= {key: _sheets_in_cache(body[key]) for key in ("deps", "outs", "plots") if key in body}
        body["cmd"] = body["cmd"].replace(*SHEETS)
        if "params" in body:
            body["params"] = [{params_file: list(body["params"])}]
        graph["stages"][name] = {**entry, "do": body} if "do" in entry else body
    for section in ("plots", "metrics", "artifacts"):
        if section in graph:
            graph[section] = _moved_up(graph[section])
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    text = StringIO()
    yaml.dump(graph, text)
    return HEADER + text.getvalue()


def _sheets_in_cache(entries: list[Any]) -> list[Any]:
    """Contact sheets go to the DVC cache: without the ``cache: false`` of what is in Git."""
    return [
        next(iter(entry)).replace(*SHEETS)
        if isinstance(entry, dict) and next(iter(entry)).startswith(SHEETS[0])
        else entry.replace(*SHEETS)
        if isinstance(entry, str)
        else entry
        for entry in entries
    ]


def _moved_up(value: Any) -> Any:
    """``../../`` before every path, wherever it stands: as an entry, as a key or as the value of ``path``."""
    if isinstance(value, str):
        return f"../../{value}" if "/" in value else value
    if isinstance(value, list):
        return [_moved_up(entry) for entry in value]
    if isinstance(value, dict):
        return {_moved_up(key): _moved_up(entry) for key, entry in value.items()}
    return value
