"""What counts as an MLP: gated ones, convolutions, called functions, experts, heads."""

from __future__ import annotations

import pytest
import torch
from timm.layers import ConvMlp, GlobalResponseNormMlp, GluMlp, Mlp, SwiGLU, SwiGLUPacked
from torch import Tensor, nn
from torchvision.models.convnext import CNBlock

import kat
from kat.errors import InputError
from kat.models.kanify import kanify_like
from tests.models.kanify.models import encoder, output, state

pytestmark = pytest.mark.filterwarnings("ignore:kanify.*the fit to")  # ReLU's kink


class MixFfn(nn.Module):
    """As in SegFormer: a depthwise convolution between the first linear map and the activation."""

    def __init__(self) -> None:
        super().__init__()
        self.dense1, self.dense2 = nn.Linear(8, 16), nn.Linear(16, 8)
        self.dwconv, self.act = nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.dense1(x)
        rows, _, channels = hidden.size()
        image = hidden.transpose(1, 2).view(rows, channels, 3, hidden.shape[1] // 3)
        return self.dense2(self.act(self.dwconv(image).flatten(2).transpose(1, 2)))


class Experts(nn.Module):
    """As in Mixtral: the weights of all experts in one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_up = nn.Parameter(0.3 * torch.randn(3, 32, 8))
        self.down = nn.Parameter(0.3 * torch.randn(3, 8, 16))
        self.function, self.router = nn.SiLU(), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        best = self.router(x).argmax(-1)
        y = torch.zeros_like(x)
        for expert in best.unique():
            gate, up = (x[best == expert] @ self.gate_up[expert].T).chunk(2, -1)
            y[best == expert] = (self.function(gate) * up) @ self.down[expert].T
        return y


class UngatedExperts(nn.Module):
    """Experts of 8-32-8 whose weights fit 32-8-32 too."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Parameter(0.3 * torch.randn(4, 8, 32))
        self.down = nn.Parameter(0.3 * torch.randn(4, 32, 8))
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x @ self.up[0]) @ self.down[0]


def test_experts_whose_hidden_width_is_unclear_need_calibration():
    model, x = UngatedExperts(), torch.randn(64, 8)
    with pytest.raises(InputError, match="experts"):
        kat.kanify(model)
    kat.kanify(model, what="activations", calibration=[x])
    assert model.act.num_channels == 32
    assert output(model, x).isfinite().all()


class Linear(nn.Module):
    """A linear map as PyTorch Geometric's: of its own class, and of that name."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T


ROWS, IMAGE, LAST = (6, 8), (2, 8, 3, 3), (2, 3, 3, 8)
STRUCTURES = {
    "SwiGLU": (lambda: SwiGLU(8, 16), ROWS, "act", "fc1_g", True, "silu"),
    "GluMlp": (lambda: GluMlp(8, 32), ROWS, "act", "fc1", True, "sigmoid"),
    "SwiGLUPacked": (lambda: SwiGLUPacked(8, 32), ROWS, "act", "fc1", True, "silu"),
    "Mlp of convolutions": (lambda: Mlp(8, 16, use_conv=True), IMAGE, "act", "fc1", False, "gelu"),
    "ConvMlp": (
        lambda: ConvMlp(8, 16, act_layer=nn.Mish), IMAGE, "act", "fc1", False, "mish",
    ),
    "GRN": (lambda: GlobalResponseNormMlp(8, 16), LAST, "act", "fc1", False, "gelu"),
    "ConvNeXt": (lambda: CNBlock(8, 1.0, 0.0), IMAGE, "block.4", "block.3", False, "gelu"),
    "Mix-FFN": (MixFfn, (2, 9, 8), "act", "dense1", False, "gelu"),
"experts": (Experts, ROWS, "function", "", True, "silu"),
    "norm": (
        lambda: nn.Sequential(nn.Linear(8, 16), nn.ELU(), nn.RMSNorm(16), nn.Linear(16, 4)),
        ROWS, "1", "0", False, "ELU",
    ),
    "Linear of another library": (
        lambda: nn.Sequential(Linear(8, 16), nn.GELU(), Linear(16, 8)),
        ROWS, "1", "0", False, "gelu",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STRUCTURES)
def test_an_mlp_is_taken_by_its_structure_and_keeps_its_function(name):
    build, shape, activation, first, gated, function = STRUCTURES[name]
    torch.manual_seed(0)
    model, x = nn.Sequential(build()).eval(), torch.randn(shape)
    expected, before = output(model, x), state(model)
    kat.kanify(model, dry_run=True)
    assert state(model) == before
    plan = kat.kanify(model, calibration=[x] if name == "experts" else None)
    mlp = plan.replacements[0].site

    def named(name):
        return f"0.{name}".removesuffix(".")

    assert len(plan.replacements) == 1
    assert (mlp.activation, mlp.first) == (named(activation), named(first))
    assert mlp.gated == gated
    assert (mlp.widths[0], mlp.function) == (8, function)
    assert isinstance(model.get_submodule(mlp.activation), kat.GroupRational)
    moved = (output(model, x) - expected).norm() / expected.norm()
    assert 0 < moved < (0.1 if "relu" in function else 0.03)
    again = nn.Sequential(build()).eval()
    kanify_like(again, plan.record())
    again.load_state_dict(model.state_dict())
    assert torch.equal(output(again, x), output(model, x))


@pytest.mark.parametrize("name", ["GluMlp", "Mlp of convolutions", "ConvNeXt", "Mix-FFN"])
def test_a_group_is_of_neighboring_channels_of_the_activation(name):
    build, shape, *_ = STRUCTURES[name]
    torch.manual_seed(0)
    model, x = build().eval(), torch.randn(shape)
    plan = kat.kanify(model, config=kat.KanifyConfig(groups=4, share="none"))
    with torch.no_grad():
        plan.replacements[0].act.weight_numerator[1] = 0  # of the second quarter
    seen = []
    second = model.get_submodule(plan.replacements[0].site.second)
    second.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(x)
    channels = seen[0].movedim(1, -1) if isinstance(second, nn.Conv2d) else seen[0]
    zero = (channels == 0).flatten(0, -2).all(0)
    assert (4 * torch.arange(len(zero)) // len(zero) == 1).equal(zero)
    assert len(zero) == plan.replacements[0].site.widths[1] >= 16


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_torchscript_and_linear_maps_without_weights_are_passed_over():
    x = torch.randn(4, 8)
    lazy = nn.Sequential(nn.LazyLinear(16), nn.GELU(), nn.Linear(16, 8))
    model = nn.Sequential(torch.jit.trace(Mlp(8, 16), x), lazy, Mlp(8, 16))
    plan = kat.kanify(model, dry_run=True)
    assert [r.site.activation for r in plan.replacements] == ["2.act"]
    assert "LazyLinear" in plan.skipped["1.1"]
    lazy(x)
    assert kat.kanify(lazy).replacements[0].site.widths == (8, 16, 8)


class WithHead(nn.Module):
    """Blocks, and a head that changes the width."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Mlp(8, 16) for _ in range(2))
        self.head = Mlp(8, 8, 30)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


def test_a_head_is_passed_over_unless_it_is_named():
    plan = kat.kanify(WithHead())
    assert [r.site.activation for r in plan.replacements] == ["blocks.0.act", "blocks.1.act"]
    assert "passed over 1" in str(plan)
    named = kat.kanify(WithHead(), ["head", "blocks.0"])
    assert [r.site.activation for r in named.replacements] == ["blocks.0.act", "head.act"]


def test_one_odd_mlp_does_not_refuse_the_others():
    odd = {
        "softmax": nn.Sequential(nn.Linear(8, 8), nn.Softmax(-1), nn.Linear(8, 8)),
        "glu": nn.Sequential(nn.Linear(8, 16), nn.GLU(), nn.Linear(8, 8)),
        "slopes": nn.Sequential(nn.Linear(8, 8), nn.PReLU(8), nn.Linear(8, 8)),
        "encoder": encoder(activation="gelu"),
    }
    plan = kat.kanify(nn.ModuleDict(odd), dry_run=True)
    names = [r.site.activation for r in plan.replacements]
    assert names == ["encoder.layers.0.activation", "encoder.layers.1.activation"]
    assert {name: reason.partition(" ")[0] for name, reason in plan.skipped.items()} == {
        "softmax.1": "Softmax",
        "glu.1": "GLU",
        "slopes.1": "PReLU",
    }


@pytest.mark.parametrize(
    ("activation", "bound"),
    [(nn.ELU, 1e-3), (lambda: nn.PReLU(init=0.4), 1e-2), (lambda: torch.sin, 1e-3)],
)
def test_any_function_of_every_value_is_fitted(activation, bound):
    torch.manual_seed(0)
    model, x = Mlp(16, 32, act_layer=activation).double(), torch.randn(200, 16).double()
    expected = output(model, x)
    kat.kanify(model, calibration=[x])
    assert isinstance(model.act, kat.GroupRational)
    assert (output(model, x) - expected).norm() / expected.norm() < bound
