"""Functions that code calls, lambdas and closures, and activations called several times."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn import functional as F  # as the lines of a plan say it
from torchvision.models.googlenet import BasicConv2d

import kat
from kat.errors import InputError
from kat.models.kanify import kanify_like
from tests.models.kanify.models import output, state

pytestmark = pytest.mark.filterwarnings("ignore:kanify.*the fit to")  # ReLU's kink


class Called(nn.Module):
    """The MLP of nanochat."""

    def __init__(self) -> None:
        super().__init__()
        self.c_fc, self.c_proj = nn.Linear(8, 32, bias=False), nn.Linear(32, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c_fc(x)
        x = functional.relu(x).square()
        return self.c_proj(x)


class CalledGelu(Called):
    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(functional.gelu(self.c_fc(x), approximate="tanh"))


class CalledSilu(Called):
    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(functional.silu(self.c_fc(x)))


@pytest.mark.parametrize(
    ("kind", "function"),
    [
        (Called, "lambda x: F.relu(x).square()"),
        (CalledGelu, "lambda x: F.gelu(x, approximate='tanh')"),
        (CalledSilu, "F.silu"),
    ],
)
def test_the_plan_has_the_two_lines_to_write_for_a_called_function(kind, function):
    torch.manual_seed(0)
    model, x = nn.Sequential(kind(), kind()), torch.randn(64, 8)
    before = state(model)
    with pytest.raises(InputError) as error:
        kat.kanify(model)
    assert state(model) == before
    line = line_of(kind, "functional.")
    text = str(error.value)
    assert "0.act_1" in text
    assert f"self.act_1 = {function}  # in __init__ of {kind.__name__}" in text
    assert text.rstrip().endswith(f"at {line}; x stands for the argument there")

    class Rewritten(kind):
        def __init__(self) -> None:
            super().__init__()
            self.act_1 = eval(function, {"F": F})

        def forward(self, x: Tensor) -> Tensor:
            return self.c_proj(self.act_1(self.c_fc(x)))

    rewritten = nn.Sequential(Rewritten(), Rewritten())
    rewritten.load_state_dict(model.state_dict())
    expected = output(rewritten, x)
    assert torch.equal(expected, output(model, x))
    plan = kat.kanify(rewritten, calibration=[x])
    assert [r.site.activation for r in plan.replacements] == ["0.act_1", "1.act_1"]
    assert (output(rewritten, x) - expected).norm() < 0.02 * expected.norm()


class MinGptBlock(nn.Module):
    """As in karpathy/minGPT: a lambda over the modules of a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.ln_2 = nn.LayerNorm(8)
        parts = {"c_fc": nn.Linear(8, 32), "c_proj": nn.Linear(32, 8), "act": nn.GELU()}
        self.mlp = m = nn.ModuleDict(parts)
        self.mlpf = lambda x: m.c_proj(m.act(m.c_fc(x)))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return x + self.mlpf(self.ln_2(x))


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


class Shared(nn.Module):
    """One activation between three linear maps."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.GELU()
        self.one, self.two, self.three = nn.Linear(8, 12), nn.Linear(12, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.three(self.act(self.two(self.act(self.one(x)))))


@pytest.mark.parametrize(
    ("build", "name", "groups"),
    [(MinGptBlock, "mlp.act", 8), (Rounds, "acts.0", 8), (Shared, "act", 4)],
)
def test_an_activation_is_one_rational_for_all_its_calls(build, name, groups):
    torch.manual_seed(0)
    model, x = build().eval(), torch.randn(64, 8)
    before, expected = state(model), output(model, x)
    kat.kanify(model, what="activations", dry_run=True)
    assert state(model) == before
    plan = kat.kanify(model, what="activations", calibration=[x])
    act = model.get_submodule(name)
    assert [r.act for r in plan.replacements] == [act]
    assert act.num_groups == groups
    assert 0 < (output(model, x) - expected).norm() < 0.005 * expected.norm()
    other = build()
    kanify_like(other, plan.record())
    other.load_state_dict(model.state_dict())
    assert torch.equal(output(other, x), output(model, x))
    model(x).sum().backward()
    assert act.weight_numerator.grad.abs().sum() > 0


def test_an_activation_between_several_mlps_is_in_none():
    with pytest.raises(InputError, match=r"test_call_sites\.py"):
        kat.kanify(Shared())


class Checked(nn.Module):
    """Code that asserts the shape of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.act, self.proj = nn.Linear(8, 8), nn.SiLU(), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[-1] == 8
        return self.proj(self.act(self.fc(x)))


def test_assertions_are_met():
    assert [r.site.activation for r in kat.kanify(Checked()).replacements] == ["act"]


class InPlace(Checked):
    """Code that uses what an activation does to its input, not what it returns."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        self.act(x)
        return self.proj(x)


def test_an_activation_whose_output_is_not_used_is_passed_over():
    model = InPlace()
    model.act = nn.SiLU(inplace=True)
    with pytest.raises(InputError, match="act: its output is not used"):
        kat.kanify(model, what="activations", calibration=[torch.randn(4, 8)])


def test_methods_that_a_model_was_given_are_not_called():
    """As accelerate gives each model that it distributes its own ``to``."""
    model = Checked()
    model.to = pytest.fail
    assert kat.kanify(model).replacements


def test_code_of_torchvision_is_named_with_its_line():
    with pytest.raises(InputError, match=r"at googlenet\.py:\d"):
        kat.kanify(BasicConv2d(3, 8, kernel_size=1))


class Closure(nn.Module):
    """A function over the modules themselves, which would go on calling them."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.act, self.proj = fc, act, proj = nn.Linear(8, 8), nn.SiLU(), nn.Linear(8, 8)
        self.run = lambda x: proj(act(fc(x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


class Untraceable(Closure):
    """Code that fails on symbols."""

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(next(iter(self.act(self.fc(x)))))


@pytest.mark.parametrize(
    ("model", "text"), [(Closure(), "self.run = lambda"), (Untraceable(), "next(iter")]
)
def test_what_cannot_be_followed_is_named_with_its_line(model, text):
    before = state(model)
    with pytest.raises(InputError, match=r"act: torch\.fx") as error:
        kat.kanify(model)
    assert line_of(type(model), text) in str(error.value)
    assert state(model) == before


def test_the_plan_says_what_calibration_does_not_show():
    model = nn.Sequential(Closure(), Untraceable(), nn.SiLU())
    plan = kat.kanify(model, what="activations", calibration=[torch.randn(4, 8)])
    reason = plan.skipped["0.act"]
    assert reason.startswith("torch.fx sees")
    assert line_of(Untraceable, "next(iter") not in reason


def line_of(kind: type, text: str) -> str:
    lines, first = inspect.getsourcelines(kind)
    number = next(i for i, line in enumerate(lines) if text in line)
    return f"test_call_sites.py:{first + number}"


def test_a_copy_calls_its_own_rational():
    model, x = Rounds(), torch.randn(4, 8)
    kat.kanify(model)
    copied, before = copy.deepcopy(model), output(model, x)
    nn.init.zeros_(copied.acts[0].weight_numerator)
    assert torch.equal(output(model, x), before)
    assert not torch.equal(output(copied, x), before)
