"""The few things `fit` needs to know when `torchrun` started several processes.

Alone, every function here does nothing: one process is a world of one.
"""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def start(device: torch.device) -> torch.device:
    """Join the other processes, if `torchrun` started any; returns this process's device.

    On CUDA each process takes the GPU of its `LOCAL_RANK` and NCCL connects them; on the CPU, gloo.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or not dist.is_available():
        return device
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return device


def world() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if world() > 1 else 0


def wrap(model: nn.Module, device: torch.device) -> nn.Module:
    """`model` with its gradients averaged over the processes after every backward pass.

    On GPUs, batch norms take their statistics over all processes; torch cannot do that on a CPU,
    where each process uses its own part of the batch.
    """
    if world() == 1:
        return model
    if device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return DistributedDataParallel(model, device_ids=[device.index])
    return DistributedDataParallel(model)


def sum_over(values: Tensor) -> Tensor:
    """The sum of `values` over all processes, in place."""
    if world() > 1:
        dist.all_reduce(values)
    return values


def agree(choice: bool, device: torch.device) -> bool:
    """The choice of process 0, made known to all."""
    if world() == 1:
        return choice
    flag = torch.tensor(float(choice), device=device)
    dist.broadcast(flag, src=0)
    return bool(flag.item())


def gather(value: Any) -> list[Any]:
    """`value` of every process, in order of rank; complete on process 0, empty elsewhere."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world() if rank() == 0 else []
    dist.gather_object(value, values or None)
    return values
