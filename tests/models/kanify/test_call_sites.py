"""MLPs that run through lambdas and closures, and activations that are called several times."""

from __future__ import annotations

import copy
import inspect
import pickle
import types

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import kat
from kat.errors import InputError
from kat.models.kanify import kanify_like
from tests.models.kanify.models import output, state

pytestmark = pytest.mark.filterwarnings("ignore:kanify.*the fit to")  # ReLU's kink


class MinGptBlock(nn.Module):
    """As in karpathy/minGPT: a lambda over the modules of a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.ln_2 = nn.LayerNorm(8)
        self.mlp = nn.ModuleDict(
            {
                "c_fc": nn.Linear(8, 32),
                "c_proj": nn.Linear(32, 8),
                "act": nn.GELU(),
                "dropout": nn.Dropout(0.1),
            }
        )
        m = self.mlp
        self.mlpf = lambda x: m.dropout(m.c_proj(m.act(m.c_fc(x))))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return x + self.mlpf(self.ln_2(x))


class Closure(nn.Module):
    """A function over the modules themselves, not their names."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.act, self.proj = nn.Linear(8, 32), nn.SiLU(), nn.Linear(32, 8)
        fc, act, proj = self.fc, self.act, self.proj

        def run(x: Tensor) -> Tensor:
            return proj(act(fc(x)))

        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


class CallsInLambda(nn.Module):
    """A lambda that calls a function."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(8, 32), nn.Linear(32, 8)
        self.mlp = lambda x: self.two(functional.gelu(self.one(x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x)


class Shared(nn.Module):
    """One activation between three linear maps."""

    def __init__(self, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.act = activation or nn.ReLU()
        self.one, self.two, self.three = nn.Linear(8, 16), nn.Linear(16, 32), nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.three(self.act(self.two(self.act(self.one(x)))))


class Rounds(nn.Module):
    """The same MLP, three times."""

    def __init__(self) -> None:
        super().__init__()
        self.acts = nn.ModuleList([nn.GELU()])
        self.one, self.two = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = x + self.two(self.acts[0](self.one(x)))
        return x


SITES = {
    "minGPT": (MinGptBlock, {"mlp.act": "gelu"}),
    "closure": (Closure, {"act": "silu"}),
    "call in a lambda": (CallsInLambda, {"act": "gelu"}),
    "shared": (Shared, {"act_2": "relu", "act_3": "relu"}),
    "rounds": (Rounds, {"acts.0": "gelu"}),
}


@pytest.mark.parametrize("name", SITES)
def test_each_call_site_has_a_rational_which_copies_and_records_keep(name):
    build, functions = SITES[name]
    torch.manual_seed(0)
    model, x = nn.ModuleList([build()]).eval(), torch.randn(64, 8)
    before, expected = state(model), output(model[0], x)
    settings = {"calibration": [x], "run": lambda model, x: model[0](x)}
    kat.kanify(model, dry_run=True)
    assert state(model) == before
    plan = kat.kanify(model, **settings)
    found = {r.mlp.activation: r.mlp.function for r in plan.replacements}
    assert found == {f"0.{act}": function for act, function in functions.items()}
    moved = (output(model[0], x) - expected).norm() / expected.norm()
    assert 0 < moved < (0.05 if "relu" in functions.values() else 0.005)

    def change(model: nn.Module, act: str) -> None:
        nn.init.zeros_(model.get_submodule(f"0.{act}").weight_numerator)

    for act in functions:  # each rational is one that runs, and the copy's is the copy's
        for duplicate in (copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))):
            copied, now = duplicate(model), output(model[0], x)
            assert torch.equal(output(copied[0], x), now)
            for parameter in model.parameters():
                parameter.data.mul_(1.01)
            assert torch.equal(output(copied[0], x), now)
            change(copied, act)
            assert not torch.equal(output(copied[0], x), now)
            again = pickle.loads(pickle.dumps(copied))
            assert torch.equal(output(again[0], x), output(copied[0], x))

    other = nn.ModuleList([build()])
    kanify_like(other, plan.record())
    other.load_state_dict(model.state_dict())
    assert torch.equal(output(other[0], x), output(model[0], x))

    model[0](x).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    for act in functions:
        assert model.get_submodule(f"0.{act}").weight_numerator.grad.abs().sum() > 0


@pytest.mark.parametrize("name", SITES)
def test_a_second_plan_takes_what_the_first_left(name):
    build, functions = SITES[name]
    torch.manual_seed(0)
    model, x = build().eval(), torch.randn(16, 8)
    whole = copy.deepcopy(model) if name in ("shared", "rounds") else None
    plans = [kat.kanify(model, 0) for _ in functions]
    assert [len(plan.replacements) for plan in plans] == [1] * len(functions)
    if whole is not None:
        kat.kanify(whole)
        assert torch.equal(output(whole, x), output(model, x))
    with pytest.raises(InputError, match="has no MLP to replace"):
        kat.kanify(model)


class SharedOptional(Shared):
    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        x = self.act(self.one(scale * x))
        return self.three(self.act(self.two(x)))


class Branching(nn.Module):
    """A lambda that depends on data."""

    def __init__(self) -> None:
        super().__init__()
        self.act, self.one, self.two = nn.GELU(), nn.Linear(8, 16), nn.Linear(16, 8)
        self.run = lambda x: self.two(self.act(self.one(x))) if x.sum() > 0 else x

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


class Untraceable(Branching):
    """Code that fails on symbols."""

    def forward(self, x: Tensor) -> Tensor:
        return self.two(next(iter(self.act(self.one(x)))))


class Measured(Branching):
    """A lambda that uses a tensor of its own."""

    def __init__(self) -> None:
        super().__init__()
        scale = torch.rand(16)
        self.run = lambda x: self.two(self.act(self.one(x))) * scale


def line_of(kind: type, text: str) -> str:
    lines, first = inspect.getsourcelines(kind)
    number = next(i for i, line in enumerate(lines) if text in line)
    return f"test_call_sites.py:{first + number}"


@pytest.mark.parametrize(
    ("build", "name", "lines", "why"),
    [
        (SharedOptional, "act", ["self.one(scale", "self.three(self"], "it has optional arguments"),
        (
            Branching,
            "act",
            ["self.run = "],
            "torch.fx sees no call of it: it cannot follow the code at",
        ),
        (Untraceable, "act", ["next(iter"], "torch.fx sees no call of it: it cannot follow"),
        (Measured, "act", ["* scale"], "cannot be regenerated: it uses tensors that are not"),
        (lambda: Shared(nn.PReLU()), "act", [], "taken if it has no parameters"),
    ],
)
def test_what_cannot_be_followed_is_named_with_its_line(build, name, lines, why):
    model = build()
    before = state(model)
    with pytest.raises(InputError) as error:
        kat.kanify(model)
    message = str(error.value)
    assert f"; {name}: " in message
    assert why in message
    assert all(line_of(type(model), text) in message for text in lines)
    assert state(model) == before


class Holder(nn.Module):
    """Linear maps and an activation in a dictionary, called by a function from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.m = nn.ModuleDict({"a": nn.Linear(8, 16), "act": nn.GELU(), "c": nn.Linear(16, 8)})
        self.run = types.MethodType(_drop, self)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


def _drop(holder: Holder, x: Tensor) -> Tensor:
    m = holder.m
    return functional.dropout(m["c"](m["act"](m["a"](x))), 0.5, holder.training)


@pytest.mark.parametrize("training", [False, True])
def test_a_held_function_drops_in_training_only(training):
    model, x = Holder().train(training), torch.randn(64, 8)
    kat.kanify(model)
    assert not (model.eval()(x) == 0).any()
    dropped = (model.train()(x) == 0).float().mean()
    assert 0.3 < dropped < 0.7
    copied = copy.deepcopy(model.eval())  # the method is the copy's
    nn.init.zeros_(copied.m.c.weight)
    assert torch.equal(output(copied, x), copied.m.c.bias.expand(64, 8))
