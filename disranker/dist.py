"""The only user of torch.distributed: process rank, sums over ranks, print-once.

Everything works in one plain `python` process; under the `deepspeed` launcher (or torchrun) the same calls span all
ranks, over gloo on CPU and nccl on CUDA.
"""

from __future__ import annotations

import ctypes
import functools
import os
import socket
from typing import Any

import torch
import torch.distributed


def initialize() -> None:
    """Join the process group that the launcher describes, or make one of a single process; safe to call twice.

    Must run before a model is built under ZeRO-3, which partitions parameters while they are created.
    """
    if torch.distributed.is_initialized():
        return
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed warns that it had to look for one
        _skip_shared_memory_op()
    if torch.cuda.is_available():
        torch.cuda.set_device(device())
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if "RANK" in os.environ:
        _share_cores()
        torch.distributed.init_process_group(backend)
    else:
        os.environ["LOCAL_RANK"] = "0"  # DeepSpeed insists on it
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        # Not by RANK and MASTER_PORT in the environment, which child processes would inherit.
        address = f"tcp://127.0.0.1:{port}"
        torch.distributed.init_process_group(backend, init_method=address, rank=0, world_size=1)


def _share_cores() -> None:
    """Give this rank its part of the cores that the ranks of one machine share, unless OMP_NUM_THREADS says otherwise.

    Else each rank starts as many threads as there are cores, and they wait for one another: seen with two ranks on two
    cores that others were using, too, a step of a small BERT took 3.5 seconds for 0.2.
    """
    num_local = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE")  # of torchrun, of DeepSpeed
    if num_local is not None and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // int(num_local)))


def launched() -> tuple[int, int]:
    """(rank, number of ranks) that a launcher gave this process; (0, 1) without one.  Joins no group."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def _skip_shared_memory_op() -> None:
    """Keep DeepSpeed from compiling its shared-memory all-reduce on CPU.

    It takes about a minute of C++ compilation at the first start (seen with 0.19.8) and needs a compiler; gloo does
    the same sums without either.  Remove when DeepSpeed offers a switch.
    """
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def process_rank() -> int:
    """Index of this process among all of them, 0 without a process group."""
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def world_size() -> int:
    """Number of processes, 1 without a process group."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def is_main() -> bool:
    """Whether this is process 0, which prints and writes what is written once."""
    return process_rank() == 0


def device() -> torch.device:
    """The device of this process: its CUDA device if there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def keep_freed_memory() -> None:
    """Let glibc keep the memory of freed tensors from now on, instead of giving every large one back to the kernel.

    Activations are allocated and freed at every operation; mapping them anew costs a page fault for every 4 KiB, which
    took 10-30% of a training step on a virtual machine (sys time in vmstat).  For when the steps begin: arrays of ten
    million rows that grow before then would leave holes of gigabytes.  Other C libraries and GPUs are left alone.
    """
    if torch.cuda.is_available():
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        m_trim_threshold, m_mmap_threshold = -1, -3  # from malloc.h
        mallopt(m_mmap_threshold, 1 << 30)
        mallopt(m_trim_threshold, (1 << 31) - 1)


@functools.cache
def usable_dtype(dtype: str) -> str:
    """`dtype`, or float32 where bfloat16 would be emulated: on a CPU without it, tens of times slower than fp32."""
    if dtype == "bfloat16" and not torch.cuda.is_available():
        capabilities = torch.cpu.get_capabilities()
        if not any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")):
            print_once("this CPU has no bfloat16 arithmetic: going on in float32")
            return "float32"
    return dtype


def sum_over_ranks(values: list[float]) -> list[float]:
    """Elementwise sum of a list of numbers over all ranks, in float64."""
    if world_size() == 1:
        return [float(value) for value in values]
    total = torch.tensor(values, dtype=torch.float64, device=device())
    torch.distributed.all_reduce(total)
    return [float(value) for value in total.tolist()]


def gather_objects(value: Any) -> list[Any]:
    """`value` of every rank, in rank order, on every rank."""
    if world_size() == 1:
        return [value]
    gathered: list[Any] = [None] * world_size()
    torch.distributed.all_gather_object(gathered, value)
    return gathered


def broadcast_object(value: Any) -> Any:
    """`value` of rank 0, on every rank."""
    if world_size() == 1:
        return value
    boxed = [value]
    torch.distributed.broadcast_object_list(boxed, src=0)
    return boxed[0]


def barrier() -> None:
    """Wait until every rank is here."""
    if world_size() > 1:
        torch.distributed.barrier()


def print_once(*parts: object) -> None:
    """Print on process 0 only, at once, so that a log file follows the run."""
    if is_main():
        print(*parts, flush=True)
