"""Device, threads and precision: one place sets them, so that the same input gives the same bytes."""

import os
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge
from pydantic import BeforeValidator

from pipeline.core.errors import InputError
from pipeline.core.params import section

if TYPE_CHECKING:
    import torch


def found_device(asked: Any) -> Any:
    """``auto`` resolved for this machine: a GPU where torch finds one; anything else as it is."""
    if asked != "auto":
        return asked
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@section
class Compute:
    """``compute`` in params.yaml. ``threads`` decides the bytes of a result, so no command line changes it.

    ``device: auto`` in the params is ``cuda`` or ``cpu`` here: what was found, as run records say it.
    """

    device: Annotated[Literal["cpu", "cuda"], BeforeValidator(found_device)]
    threads: Annotated[int, Ge(1)]
    precision: Literal["auto", "fp32", "bf16"]


def set_up(compute: Compute) -> None:
    """Cap torch, BLAS and OpenMP at the same number of threads and demand repeatable algorithms.

    torch's own count decides the networks' bytes, and that of NumPy's BLAS, which is loaded before this is called,
    those of its products. The environment reaches libraries that load later, and children.
    """
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"):
        os.environ[variable] = str(compute.threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS repeats its sums only with a fixed workspace
    import torch
    from threadpoolctl import threadpool_limits

    if compute.device == "cuda" and not torch.cuda.is_available():
        message = (
            "params, compute.device: 'cuda' was asked for, but torch finds no GPU; write cpu, or install the driver"
        )
        raise InputError(message)
    torch.set_num_threads(compute.threads)
    threadpool_limits(compute.threads, user_api="blas")  # in force until the process ends
    # The same as use_deterministic_algorithms(True), which would also import the compiler: 150 MB and a second a stage.
    torch.set_deterministic_debug_mode("error")
    # A debugging aid that comes with the line above; filling every empty tensor took a quarter of the training time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def to_device(values: "torch.Tensor", device: str) -> "torch.Tensor":
    """A tensor of the CPU on the device; a GPU takes it beside its queue, and Python need not wait until it has.

    From ordinary memory a copy begins when the queue is empty, and until then nothing further can be queued.
    """
    return values if device == "cpu" else values.pin_memory().to(device, non_blocking=True)


def bf16_is_native(device: str) -> bool:
    """Whether bf16 runs in hardware; emulated bf16 is ten times slower than fp32."""
    import torch

    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))


def precision_in_force(compute: Compute) -> Literal["fp32", "bf16"]:
    """``auto`` resolved for this machine."""
    if compute.precision != "auto":
        return compute.precision
    return "bf16" if bf16_is_native(compute.device) else "fp32"


def autocast(compute: Compute) -> "torch.autocast":
    """Context in which convolutions and matrix products run in bf16, if that is in force; parameters stay fp32."""
    import torch

    enabled = precision_in_force(compute) == "bf16"
    return torch.autocast(compute.device, dtype=torch.bfloat16, enabled=enabled)


def instruction_set(device: str) -> str:
    """What decides the bytes of floating-point results on this machine, such as ``avx512+amx``: never a host's name."""
    import torch

    if device == "cuda":
        major, minor = torch.cuda.get_device_capability()
        return f"cuda-{major}.{minor}"
    capabilities = torch.cpu.get_capabilities()
    parts = [torch.backends.cpu.get_cpu_capability().lower()]
    parts += ["amx"] if capabilities.get("amx_tile") else []
    parts += ["bf16"] if bf16_is_native("cpu") else []
    return "+".join(parts)


def record(compute: Compute) -> dict[str, str | int]:
    """What a run's record says of the machine: all that decides the bytes."""
    return {
        "device": compute.device,
        "threads": compute.threads,
        "precision": precision_in_force(compute),
        "instruction_set": instruction_set(compute.device),
    }
