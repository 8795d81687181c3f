"""Rationals whose denominators stay even: no optimizer, dtype or freezing gives them a kink."""

from __future__ import annotations

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import kat
from kat.nn import keep_even, rationals

pytestmark = pytest.mark.filterwarnings("ignore:.*decays rational coefficients")

OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, 0.05, weight_decay=0.1),
    "sgd": lambda p: torch.optim.SGD(p, 1e-5, momentum=0.9, nesterov=True, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 1e-2),
    "lbfgs": lambda p: torch.optim.LBFGS(p, 0.1, max_iter=3),
}


def adapted(model):
    kat.adapt(model, "rational")
    return model


def _train(model, optimizer, dtype=torch.float32):
    x = torch.randn(64, 8, dtype=dtype)

    def loss():
        optimizer.zero_grad()
        value = (model(x) - x.sin()).square().sum()
        value.backward()
        return value

    for _ in range(4):
        optimizer.step(loss)


def _kinks(rational):
    """The number of denominators with odd powers: in form A, F has a kink where there are any."""
    return int(rational.weight_denominator[:, ::2].count_nonzero(1).count_nonzero())


@pytest.mark.parametrize(
    ("name", "share"),
    [("adamw", "numerator"), ("sgd", "denominator"), ("rmsprop", "none"), ("lbfgs", "numerator")],
)
def test_training_makes_no_kink(name, share):
    torch.manual_seed(0)
    free, even = (kat.GRKANMlp(8, 16, num_groups=4, act_init="gelu", share=share) for _ in range(2))
    keep_even(even)
    starts = [r.weight_denominator.detach().clone() for r in rationals(even).values()]
    for model in (free, even):
        _train(model, OPTIMIZERS[name](model.parameters()))
    assert any(_kinks(rational) for rational in rationals(free).values())
    assert not any(_kinks(rational) for rational in rationals(even).values())
    ends = [rational.weight_denominator for rational in rationals(even).values()]
    assert not any(torch.equal(a, b) for a, b in zip(starts, ends, strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_kink_that_is_there_goes(dtype):
    torch.manual_seed(0)
    act = kat.GroupRational(2, (4, 3), "tanh", num_channels=8).to(dtype)
    assert _kinks(act)
    keep_even(act)
    _train(act, OPTIMIZERS["sgd"](act.parameters()), dtype)
    assert not _kinks(act)


def test_a_frozen_rational_stays_frozen_and_removed_hooks_let_it_train():
    torch.manual_seed(0)
    model = kat.GRKANMlp(8, 16, num_groups=4)
    model.act1.requires_grad_(False)
    handles = keep_even(model)
    assert not model.act1.weight_denominator.requires_grad
    for handle in handles:
        handle.remove()
    _train(model, OPTIMIZERS["adamw"](model.parameters()))
    assert _kinks(model.act2)
    assert not _kinks(model.act1)


def test_a_rational_that_is_unfrozen_later_stays_even():
    torch.manual_seed(0)
    model = kat.GRKANMlp(8, 16, num_groups=4).requires_grad_(False)
    keep_even(model)
    model.requires_grad_(True)
    start = model.act2.weight_denominator.detach().clone()
    _train(model, OPTIMIZERS["adamw"](model.parameters()))
    assert not _kinks(model.act2)
    assert not torch.equal(model.act2.weight_denominator, start)


def test_sharded_coefficients_stay_even(process_group):
    """The gradients of FSDP2's shards come by no hook of autograd."""
    torch.manual_seed(0)
    model = kat.GRKANMlp(8, 16, num_groups=4)
    start = model.act2.weight_denominator.detach().clone()
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    keep_even(model)
    _train(model, OPTIMIZERS["adamw"](model.parameters()))
    b = model.act2.weight_denominator.full_tensor()
    assert not b[:, ::2].any()
    assert (b != start)[:, 1::2].all()


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (torch.nn.Linear(2, 2), "no rational"),
        (kat.GRKANMlp(8, form="B"), "it refuses act1, act2"),
        (adapted(kat.GRKANMlp(8)), "it refuses act1, act2"),
    ],
)
def test_what_cannot_be_smooth_is_refused(model, says):
    with pytest.raises(ValueError, match=says):
        keep_even(model)
