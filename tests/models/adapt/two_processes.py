"""One of two processes that train adapters: python -m tests.models.adapt.two_processes OUT.

Each trains on its half of the data. OUT gets a folder for each kind and wrapper.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import kat

WRAPPERS = {"ddp": DistributedDataParallel, "fsdp": fully_shard}
CASES = list(itertools.product(("rational", "low_rank", "parallel"), WRAPPERS))
X = torch.randn(8, 16, generator=torch.Generator().manual_seed(1))


def make(kind: str) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
    if kind != "parallel":
        kat.kanify(model)
    return model


def train(model: nn.Module, x: Tensor) -> None:
    optimizer = torch.optim.SGD(kat.param_groups(model, 1e-2, coefficient_lr=1e-3))
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


def main(out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for kind, wrap in CASES:
        model = make(kind)
        adapters = kat.adapt(model, kind, modules_to_save="0")
        train(WRAPPERS[wrap](model), X.chunk(2)[dist.get_rank()])
        adapters.save(Path(out) / f"{kind}-{wrap}")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
