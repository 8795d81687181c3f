"""Parallel models are refused, with the order in which to do it."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from timm.layers import Mlp, SwiGLU
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.multiprocessing import start_processes
from torch.nn.parallel import DataParallel, DistributedDataParallel

import kat
from kat.errors import InputError

ORDER = "first change the model by kat.kanify or kat.adapt, then wrap it, then make the optimizer"


@pytest.mark.parametrize("wrap", [DataParallel, DistributedDataParallel, fully_shard])
def test_a_wrapped_model_is_refused_with_the_order(process_group, wrap):
    model = wrap(nn.Sequential(Mlp(8, 16)))
    with pytest.raises(InputError, match=ORDER):
        kat.kanify(nn.ModuleList([model]))


@pytest.mark.slow
def test_tensor_parallelism_afterwards_is_refused_when_it_cuts_groups(tmp_path):
    start_processes(_cut_over_two, (str(tmp_path / "store"),), 2, start_method="forkserver")


def _cut_over_two(rank: int, store: str) -> None:
    """Each process has half of the hidden channels of an MLP, in whole groups of another size."""
    dist.init_process_group("gloo", store=dist.FileStore(store, 2), rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    for mlp in (Mlp(16, 64), SwiGLU(16, 64), kat.GRKANMlp(16, 64), kat.GatedGRKANMlp(16, 64)):
        if isinstance(mlp, Mlp | SwiGLU):
            kat.kanify(mlp)
        first = [name for name, _ in mlp.named_children() if name.startswith("fc1")]
        plan = {**{name: ColwiseParallel() for name in first}, "fc2": RowwiseParallel()}
        parallelize_module(mlp, mesh, plan)
        for context in (torch.no_grad, torch.enable_grad):
            with (
                context(),
                pytest.raises(InputError, match="x has 32"),
            ):
                mlp(torch.randn(4, 16))
    dist.destroy_process_group()


def test_the_rationals_of_a_model_wrapped_afterwards_train(process_group):
    model = nn.Sequential(Mlp(8, 16))
    plan = kat.kanify(model)
    DistributedDataParallel(model)(torch.randn(4, 8)).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in plan.replacements[0].act.parameters())
