"""One run on several GPUs or nodes: ``GAN_LAUNCH="torchrun --nproc-per-node 4 --no-python"`` before the command.

Every process has all of both networks and an equal part of each batch; DistributedDataParallel averages the gradients.
Batch norm's statistics are of a process's own part on CPUs, of the whole batch on GPUs (``layers.normalised``). Only
the first process writes; all of them must see the same files.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.core import ranks
from pipeline.core.compute import Compute
from pipeline.core.errors import InputError


@contextmanager
def process_group(compute: Compute) -> Iterator[None]:
    """Join the processes that the launcher started, for the length of the block; nothing happens to a single one."""
    if ranks.world_size() == 1:
        yield
        return
    if compute.device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if compute.device == "cuda" else "gloo")
    try:
        yield
        dist.barrier()  # the first process is done with the files that the others read
    finally:
        dist.destroy_process_group()


def in_parallel(network: nn.Module) -> nn.Module:
    """The network, its gradients averaged over the processes if there are several."""
    return DistributedDataParallel(network) if ranks.world_size() > 1 else network


def check_divides(batch_size: int) -> None:
    """Refuse a batch that does not fall into equal parts of at least two images.

    Raises
    ------
    InputError
        Naming the batch size and the number of processes.
    """
    n = ranks.world_size()
    if batch_size % n or batch_size // n < 2:
        message = (
            f"params, batch_size: {batch_size} images do not fall into {n} equal parts of two or more, one a process; "
            "change the number of processes (GAN_LAUNCH) or batch_size"
        )
        raise InputError(message)


def check_same_step(step: int, checkpoint: Path) -> None:
    """Refuse processes that do not see the same checkpoint: their updates would be of different steps.

    Raises
    ------
    InputError
        Naming where the checkpoint is looked for.
    """
    if ranks.world_size() == 1:
        return
    steps: list[int] = [0] * ranks.world_size()
    dist.all_gather_object(steps, step)
    if len(set(steps)) > 1:
        message = (
            f"{checkpoint}: the processes start from different steps ({', '.join(map(str, steps))}); all of them must "
            "see the same folder: set GAN_SCRATCH to one that is shared"
        )
        raise InputError(message)


def average(values: torch.Tensor) -> torch.Tensor:
    """The mean over the processes, on each of them."""
    if ranks.world_size() > 1:
        values = values.clone()
        dist.all_reduce(values)
        values /= ranks.world_size()
    return values
