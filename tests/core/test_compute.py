"""Device, threads and precision."""

import os
from unittest.mock import MagicMock

import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from pipeline.core import compute
from pipeline.core.compute import Compute
from pipeline.core.errors import InputError

VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    """What set_up changes is as before afterwards."""
    for variable in (*VARIABLES, "CUBLAS_WORKSPACE_CONFIG"):
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable)
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    matmul, conv = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    with threadpool_limits():
        yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(mode=deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = fill
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, conv


def cpu(precision="fp32", threads=1):
    return Compute(device="cpu", threads=threads, precision=precision)


CUDA = {"device": "cuda", "threads": 1}


@pytest.mark.parametrize("threads", [1, 3])
def test_set_up(threads):
    compute.set_up(cpu(threads=threads))
    assert torch.get_num_threads() == threads
    assert {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"} == {threads}  # NumPy's
    assert {os.environ[variable] for variable in VARIABLES} == {str(threads)}
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.utils.deterministic.fill_uninitialized_memory
    assert torch.backends.cuda.matmul.allow_tf32 is False
    assert torch.backends.cudnn.allow_tf32 is False


def test_a_chosen_cublas_workspace_stays(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    compute.set_up(cpu())
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_cuda_without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"compute\.device: 'cuda' was asked for, but torch finds no GPU; write cpu"):
        compute.set_up(Compute(**CUDA, precision="auto"))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_forced_precision_holds_whatever_the_machine_has(monkeypatch, precision):
    for native in (True, False):
        monkeypatch.setattr(compute, "bf16_is_native", lambda device, native=native: native)
        assert compute.precision_in_force(cpu(precision)) == precision
        assert compute.precision_in_force(Compute(**CUDA, precision=precision)) == precision


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx512_bf16": True}, "bf16"),
        ({"amx_bf16": True}, "bf16"),
        ({"bf16": True}, "bf16"),  # Arm
        ({"avx2": True, "avx512_f": True, "avx512_bf16": False}, "fp32"),
        ({}, "fp32"),
    ],
)
def test_auto_asks_the_processor(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert compute.precision_in_force(cpu("auto")) == expected


@pytest.mark.parametrize(("native", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_asks_the_gpu_without_emulation(monkeypatch, native, expected):
    def supported(*, including_emulation):
        return native or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert compute.precision_in_force(Compute(**CUDA, precision="auto")) == expected


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_autocast_follows_the_precision_in_force(precision, dtype):
    weight, values = torch.ones(2, 2), torch.ones(2, 2)
    with compute.autocast(cpu(precision)):
        assert (values @ weight).dtype == dtype
    assert (values @ weight).dtype == torch.float32


def test_instruction_set_names_what_decides_the_bytes(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert compute.instruction_set("cpu") == "avx2"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_tile": True, "amx_bf16": True})
    assert compute.instruction_set("cpu") == "avx2+amx+bf16"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    assert compute.instruction_set("cuda") == "cuda-9.0"


def test_the_record_says_what_decides_the_bytes():
    record = compute.record(cpu("bf16", threads=3))
    expected = {"device": "cpu", "threads": 3, "precision": "bf16"}
    assert record == expected | {"instruction_set": compute.instruction_set("cpu")}
    assert record["instruction_set"]


def test_tensors_of_the_cpu_stay_where_they_are():
    values = torch.ones(3)
    assert compute.to_device(values, "cpu") is values


def test_a_gpu_takes_copies_beside_its_queue():
    values = MagicMock()
    assert compute.to_device(values, "cuda") is values.pin_memory().to.return_value
    values.pin_memory().to.assert_called_once_with("cuda", non_blocking=True)
