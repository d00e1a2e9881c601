"""Model folders: ``networks.safetensors`` (no pickle), ``run.json``, ``history.parquet``, ``validation.parquet``.

Tensors are named ``seed<k>/<network>/<parameter>``.
"""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import safetensors
import safetensors.torch
import torch
from torch import nn

from pipeline.core.errors import InputError
from pipeline.core.files import whole_directory, write_text
from pipeline.core.records import read_parquet, write_parquet

NETWORKS_FILE = "networks.safetensors"
RUN_FILE = "run.json"


def named_tensors(prefix: str, network: nn.Module) -> dict[str, torch.Tensor]:
    """The network's parameters on the CPU, in fp32, under ``prefix/``."""
    return {f"{prefix}/{name}": tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}


def load_into(network: nn.Module, tensors: dict[str, torch.Tensor], prefix: str, where: Path) -> None:
    """Copy the tensors under ``prefix/`` into a network.

    Raises
    ------
    InputError
        If a tensor is missing, superfluous or of another shape: the file belongs to another network.
    """
    found = {name.removeprefix(f"{prefix}/"): t for name, t in tensors.items() if name.startswith(f"{prefix}/")}
    expected = network.state_dict()
    differences = [
        f"{name}: expected {_shape(expected.get(name))}, found {_shape(found.get(name))}"
        for name in sorted({*expected, *found})
        if _shape(expected.get(name)) != _shape(found.get(name))
    ]
    if differences:
        message = (
            f"{where}: '{prefix}' is not this network ({len(differences)} tensors differ; first {differences[0]}); "
            "the params ask for another architecture or width than the file was made with: run dvc repro"
        )
        raise InputError(message)
    network.load_state_dict(found)


def read_into(network: nn.Module, model: Path, prefix: str) -> None:
    """Copy the tensors under ``prefix/`` of a model folder into a network; errors as :func:`load_into`."""
    load_into(network, read_tensors(model / NETWORKS_FILE, f"{prefix}/"), prefix, model)


def _shape(tensor: torch.Tensor | None) -> str:
    return "no such tensor" if tensor is None else "x".join(map(str, tensor.shape))


def read_tensors(path: Path, prefix: str = "") -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file whose names begin with ``prefix``; no others are brought into memory.

    Raises
    ------
    InputError
        If the file is missing or damaged.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys() if name.startswith(prefix)}  # noqa: SIM118
    except FileNotFoundError as error:
        message = f"{path}: missing; run the stage that makes this model (dvc repro)"
        raise InputError(message) from error
    except safetensors.SafetensorError as error:
        message = f"{path}: not a whole safetensors file ({error}); remove it and run dvc repro"
        raise InputError(message) from error


def write_tensors(path: Path, tensors: dict[str, torch.Tensor], note: str = "") -> None:
    """Write a safetensors file; ``note`` is the one metadata entry (several would make the bytes vary)."""
    metadata = {"note": note} if note else None
    path.write_bytes(safetensors.torch.save(tensors, metadata=metadata))


def read_note(path: Path) -> str:
    """The metadata entry that :func:`write_tensors` wrote."""
    with safetensors.safe_open(path, framework="pt") as file:
        return (file.metadata() or {}).get("note", "")


def write_model(
    out: Path, tensors: dict[str, torch.Tensor], run: dict[str, Any], tables: dict[str, pd.DataFrame]
) -> None:
    """Write a model folder whole.

    Parameters
    ----------
    tensors : named ``seed<k>/<network>/<parameter>``
    run : the stage, params in force, set used, steps, precision; no time, no host, no path
    tables : each becomes ``NAME.parquet``
    """
    with whole_directory(out) as partial:
        write_tensors(partial / NETWORKS_FILE, tensors)
        (partial / RUN_FILE).write_text(_as_json(run), encoding="utf-8")
        for name, table in tables.items():
            table.to_parquet(partial / f"{name}.parquet", index=False)


def write_record(out: Path, run: dict[str, Any], tables: dict[str, pd.DataFrame]) -> None:
    """The small files of a model folder once more, as files of their own: a page needs them without the networks."""
    for name, table in tables.items():
        write_parquet(out / f"{name}.parquet", table)
    write_text(out / RUN_FILE, _as_json(run))


def _as_json(run: dict[str, Any]) -> str:
    return json.dumps(run, indent=2, sort_keys=True) + "\n"


def read_run(model: Path) -> dict[str, Any]:
    """Read a model folder's ``run.json``."""
    try:
        return json.loads((model / RUN_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        message = f"{model}/{RUN_FILE}: missing; run the stage that makes this model (dvc repro)"
        raise InputError(message) from error
    except ValueError as error:
        message = f"{model}/{RUN_FILE}: not valid JSON ({error}); remove {model} and run dvc repro"
        raise InputError(message) from error


def seeds(model: Path) -> list[int]:
    """The seeds whose networks a model folder holds, ascending."""
    return sorted(read_run(model)["params"]["seeds"])


def read_epochs(model: Path, seed: int) -> dict[str, int]:
    """The epoch that each generator of a seed stands for: ``generator`` (chosen by validation), ``generator_last``."""
    validation = read_parquet(model / "validation.parquet", f"remove {model} and run dvc repro")
    mine = validation[validation["seed"] == seed]
    return {
        "generator": int(mine.loc[mine["chosen"], "epoch"].iloc[0]),
        "generator_last": int(mine["epoch"].max()),
    }
