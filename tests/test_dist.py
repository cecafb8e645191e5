"""Process rank, sums and gathers: in one plain process, and over two ranks."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest
import torch

from disranker import dist


def test_without_a_process_group_one_process_is_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert (dist.process_rank(), dist.world_size(), dist.is_main()) == (0, 1, True)
    assert dist.sum_over_ranks([1, 2.5]) == [1.0, 2.5]
    assert dist.gather_objects({"a": 1}) == [{"a": 1}]
    assert dist.broadcast_object("x") == "x"
    dist.barrier()
    dist.print_once("one", 2)
    assert capsys.readouterr().out == "one 2\n"


@pytest.mark.parametrize(
    ("capability", "dtype"), [("amx_bf16", "bfloat16"), ("avx512_bf16", "bfloat16"), ("avx2", "float32")]
)
def test_bfloat16_is_used_where_the_machine_computes_in_it(
    capability: str, dtype: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(
        torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False, "amx_bf16": False, capability: True}
    )
    dist.usable_dtype.cache_clear()
    try:
        assert [dist.usable_dtype(name) for name in ("bfloat16", "float32", "bfloat16")] == [dtype, "float32", dtype]
    finally:
        dist.usable_dtype.cache_clear()
    said = ["this CPU has no bfloat16 arithmetic: going on in float32"]
    assert capsys.readouterr().out.splitlines() == (said if dtype == "float32" else [])


@pytest.mark.parametrize(
    ("environment", "threads"),
    [
        ({"LOCAL_WORLD_SIZE": "2"}, [4]),  # of torchrun
        ({"LOCAL_SIZE": "3"}, [2]),  # of DeepSpeed's launcher
        ({"LOCAL_SIZE": "16"}, [1]),
        ({"LOCAL_SIZE": "2", "OMP_NUM_THREADS": "7"}, []),  # the user's word
        ({}, []),
    ],
)
def test_ranks_of_one_machine_share_its_cores(
    environment: dict[str, str], threads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LOCAL_WORLD_SIZE", "LOCAL_SIZE", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found: list[int] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    monkeypatch.setattr(torch, "set_num_threads", found.append)
    dist._share_cores()
    assert found == threads


def test_a_launcher_tells_rank_and_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert dist.launched() == (0, 1)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert dist.launched() == (3, 8)


PROGRAM = """
import json
from disranker import dist
dist.initialize()
dist.initialize()
rank = dist.process_rank()
found = {
    "world": dist.world_size(),
    "main": dist.is_main(),
    "sums": dist.sum_over_ranks([rank + 1, 0.1, 2.0**24 * (1 - rank) + rank]),
    "gathered": dist.gather_objects({"rank": rank, "names": ["a"] * rank}),
    "broadcast": dist.broadcast_object(["from", rank]),
    "device": dist.device().type,
}
dist.barrier()
dist.print_once("only once")
print(json.dumps(found))
"""


def start(ranks: int) -> list[list[str]]:
    """The lines that each rank of such a world printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = []
    for rank in range(ranks):
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        if ranks > 1:
            place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
            environment |= {**place, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        command = [sys.executable, "-c", PROGRAM]
        processes.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * ranks
    return [[line for line in output.splitlines() if line == "only once" or line[0] == "{"] for output in outputs]


@pytest.mark.multiprocess
def test_two_ranks_sum_gather_and_print_once() -> None:
    (said, first), (second,) = start(2)
    assert said == "only once"
    found = [json.loads(first), json.loads(second)]
    assert [rank["main"] for rank in found] == [True, False]
    for rank in found:
        assert rank["world"] == 2
        # 2^24 + 1 is no float32: the sum is made in float64.
        assert rank["sums"] == [3.0, 0.2, 2.0**24 + 1]
        assert rank["gathered"] == [{"rank": 0, "names": []}, {"rank": 1, "names": ["a"]}]
        assert rank["broadcast"] == ["from", 0]
        assert rank["device"] == "cpu"
