"""The monitor: what it records, computed another way, and that it changes nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.nn import functional

import kat
from kat.errors import InputError
from kat.nn import StabilityMonitor
from kat.nn.stability import COLUMNS, read_rows
from tests.equality import assert_equal
from tests.hooks import forward_hooks
from tests.marks import both_forms

INTERVAL = (-3.0, 3.0)


def _model(name="kat_micro_patch2_8", **options):
    torch.manual_seed(0)
    settings = {"in_chans": 1, "depth": 2, **options}
    return timm.create_model(name, **settings)


def _batch(size=6):
    generator = torch.Generator().manual_seed(1)
    images = 2 * torch.randn(size, 1, 8, 8, generator=generator)
    return images, torch.randint(0, 10, (size,), generator=generator)


def _train(model, monitor=None, steps=3):
    """SGD from a fixed state of the generators; the weights that come out."""
    torch.manual_seed(2)
    optimizer = torch.optim.AdamW(kat.param_groups(model, lr=1e-2))
    images, labels = _batch()
    for step in range(steps):
        if monitor and monitor.due(step):
            monitor.watch()
        optimizer.zero_grad()
        functional.cross_entropy(model.train()(images), labels).backward()
        if monitor and monitor.watching:
            monitor.record(step)
        optimizer.step()
    return model.state_dict()


@pytest.mark.parametrize(
    "options",
    [{}, {"keep": "all"}, {"proj_drop_rate": 0.1}, {"drop_path_rate": 0.3}, {"form": "B"}],
)
def test_a_watched_run_gives_the_same_bits(options):
    monitor = StabilityMonitor(1)
    watched = _model(**options)
    monitor.attach(watched)
    actual, expected = _train(watched, monitor), _train(_model(**options))
    assert_equal(actual, expected)
    assert len(monitor.rows) == 3 * (2 * 2 + 2)
    assert not any(map(forward_hooks, watched.modules()))


@pytest.mark.parametrize("packed", [False, True])
def test_a_gated_mlp_is_watched_from_its_gate_to_its_output(packed):
    options = {"name": "kat_glu_micro_patch2_8", "packed": packed}
    watched, monitor = _model(**options), StabilityMonitor(1)
    monitor.attach(watched)
    actual, expected = _train(watched, monitor), _train(_model(**options))
    assert_equal(actual, expected)
    first = {row["layer"]: row for row in monitor.rows if row["step"] == 0}
    assert list(first) == ["blocks.0", "blocks.0.mlp.act", "blocks.1", "blocks.1.mlp.act"]
    model, seen = _model(**options), {}
    mlp = model.blocks[1].mlp
    mlp.act.register_forward_hook(lambda module, args, y: seen.update(input=args[0], activation=y))
    mlp.fc2.register_forward_hook(lambda module, args, y: seen.update(output=y))
    images, labels = _batch()
    torch.manual_seed(2)
    functional.cross_entropy(model.train()(images), labels).backward()
    row = first["blocks.1.mlp.act"]
    for name, tensor in seen.items():
        assert row[f"{name}_variance"] == pytest.approx(tensor.var().item(), rel=1e-3)
    assert row["weight_gradient"] == pytest.approx(mlp.fc2.weight.grad.norm().item(), rel=1e-3)
    assert row["input_gradient"] > 0


def _by_hand(model, images, labels):
    """Inputs, outputs and gradients of every module of a model with keep="all"."""
    seen = {}

    def keep(name, module, args, output):
        if args[0].requires_grad:
            args[0].retain_grad()
        seen[name] = (args[0], output)

    for name, module in model.named_modules():
        if name:
            module.register_forward_hook(lambda m, a, y, name=name: keep(name, m, a, y))
    functional.cross_entropy(model.train()(images), labels).backward()
    return seen


def _q(x, b, form):
    """Q(x) by the definition, in numpy, for x (N, C) and b (G, n)."""
    columns = np.repeat(b, x.shape[1] // len(b), axis=0)
    powers = [x**j * columns[:, j - 1] for j in range(1, b.shape[1] + 1)]
    if form == "A":
        return 1 + sum(np.abs(power) for power in powers)
    return 1 + np.abs(sum(powers))


@both_forms
def test_quantities_are_those_of_the_definitions(form):
    """A model in double precision that runs by its modules, its tensors taken by hand."""
    model = _model(form=form, keep="all").double()
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    watched = _model(form=form).double()
    monitor = StabilityMonitor()
    monitor.attach(watched)
    torch.manual_seed(3)
    with torch.no_grad():
        for (name, p), q in zip(model.named_parameters(), watched.parameters(), strict=True):
            if "weight_" in name:
                p.add_(0.2 * torch.randn_like(p))
            q.copy_(p)
    images, labels = (t.double() if t.is_floating_point() else t for t in _batch())
    seen = _by_hand(model, images, labels)
    monitor.watch()
    functional.cross_entropy(watched.train()(images), labels).backward()
    rows = {row["layer"]: row for row in monitor.record(7, loss_scale=4.0)}
    assert list(rows) == [
        "blocks.0", "blocks.0.mlp.act1", "blocks.0.mlp.act2",
        "blocks.1", "blocks.1.mlp.act1", "blocks.1.mlp.act2",
    ]  # fmt: skip
    for layer, row in rows.items():
        is_block = "act" not in layer
        x, f = (t.detach().numpy().reshape(-1, t.shape[-1]) for t in seen[layer])
        linear = layer.replace("act", "fc")
        y = seen[linear if not is_block else layer][1].detach().numpy()
        expected = {
            "step": 7,
            "input_mean": x.mean(),
            "input_variance": x.var(),
            "output_mean": y.mean(),
            "output_variance": y.var(),
            "gain": np.square(y).mean() / np.square(x).mean(),
            "input_gradient": seen[layer][0].grad.norm().item() / 4,
        }
        if not is_block:
            activation, fc = model.get_submodule(layer), model.get_submodule(linear)
            own = [activation.weight_numerator, activation.weight_denominator]
            first = [start[f"{layer}.weight_numerator"], start[f"{layer}.weight_denominator"]]
            c, c_0 = (torch.cat([t.detach().flatten() for t in group]) for group in (own, first))
            q = _q(x, own[1].detach().numpy(), form)
            expected |= {
                "activation_mean": f.mean(),
                "activation_variance": f.var(),
                "q_min": q.min(),
                "q_max": q.max(),
                "outside": (np.abs(x) > INTERVAL[1]).mean(),
                "drift": ((c - c_0).norm() / c_0.norm()).item(),
                "weight_gradient": fc.weight.grad.norm().item(),
                "numerator_gradient": own[0].grad.norm().item(),
                "denominator_gradient": own[1].grad.norm().item(),
                "dead_groups": 0,
                "exploding_groups": 0,
            }
            assert row.keys() == set(COLUMNS)
        for name, value in expected.items():
            assert row[name] == pytest.approx(value, rel=1e-5, abs=1e-6), (layer, name)
    assert max(row["outside"] for row in rows.values() if "outside" in row) > 0


def test_dead_and_exploding_groups_and_means_far_from_zero():
    layer = kat.GRKANLinear(32, 4, num_groups=4, init="identity", share="none")
    with torch.no_grad():
        layer.act.weight_numerator[0] = torch.tensor([5.0, 0, 0, 0, 0, 0])  # constant
        layer.act.weight_numerator[1, 1] = 1e3
        layer.act.weight_numerator[2, 1] = math.nan
    monitor = StabilityMonitor()
    monitor.attach(layer)
    monitor.watch()
    x = 1000 + torch.randn(500, 32)
    layer(x)
    (row,) = monitor.record(0)
    assert (row["dead_groups"], row["exploding_groups"]) == (1, 3)  # 1000^2 is above the bound too
    assert row["input_variance"] == pytest.approx(x.double().var(correction=0).item(), rel=1e-4)
    assert row["outside"] == 1
    assert math.isnan(row["activation_variance"])


def test_other_models_and_later_passes_are_not_recorded():
    model, other = _model(), _model()
    monitor = StabilityMonitor()
    monitor.attach(model)
    monitor.watch()
    images, labels = _batch()
    other(images)
    model(images[:0])
    functional.cross_entropy(model(images), labels).backward()
    functional.cross_entropy(model(10 * images), labels).backward()
    rows = monitor.record(0)
    alone = StabilityMonitor()
    alone.attach(other)
    alone.watch()
    functional.cross_entropy(other(images), labels).backward()
    for row, expected in zip(rows, alone.record(0), strict=True):
        assert row["input_variance"] == expected["input_variance"]


def test_a_layer_that_does_not_run_has_no_row(tmp_path):
    """Of two experts, one runs in each step."""
    experts = nn.ModuleList([kat.GRKANLinear(16, 16), kat.GRKANLinear(16, 16)])
    monitor = StabilityMonitor(interval=1)
    monitor.attach(experts)
    for step in range(4):
        monitor.watch()
        experts[step % 2](torch.randn(8, 16)).sum().backward()
        monitor.record(step)
    assert [row["layer"] for row in monitor.rows] == ["0.act", "1.act"] * 2
    monitor.save(tmp_path / "stability.csv")
    again = StabilityMonitor()
    again.resume(tmp_path / "stability.csv", 4)
    assert [row["step"] for row in again.rows] == [0, 1, 2, 3]


def test_checkpointed_blocks_are_recorded_once_and_the_same():
    rows = []
    for checkpointed in (False, True):
        model = _model()
        model.set_grad_checkpointing(checkpointed)
        monitor = StabilityMonitor()
        monitor.attach(model)
        _train(model, monitor, steps=1)
        rows.append(monitor.rows)
    assert rows[0] == rows[1]
    assert all("input_gradient" in row for row in rows[0])


def test_rows_survive_the_file_and_a_resumed_run_goes_on(tmp_path):
    model, monitor = _model(), StabilityMonitor(2)
    monitor.attach(model)
    _train(model, monitor, steps=5)
    monitor.save(tmp_path / "stability.csv")
    assert (tmp_path / "stability.csv").read_text().startswith(",".join(COLUMNS) + "\n")
    assert read_rows(tmp_path / "stability.csv") == monitor.rows
    assert sorted({row["step"] for row in monitor.rows}) == [0, 2, 4]
    resumed = StabilityMonitor(2)
    resumed.attach(model)
    resumed.load_state_dict(monitor.state_dict())
    resumed.resume(tmp_path / "stability.csv", 4)
    assert sorted({row["step"] for row in resumed.rows}) == [0, 2]
    _train(model, resumed, steps=1)
    assert resumed.rows[-1]["drift"] > 0
    with pytest.raises(InputError, match="no step was monitored; train with --monitor"):
        read_rows(tmp_path / "none.csv")


def test_a_model_without_rationals_is_refused():
    with pytest.raises(InputError, match="Linear has no rational layer to monitor"):
        StabilityMonitor().attach(nn.Linear(2, 2))
