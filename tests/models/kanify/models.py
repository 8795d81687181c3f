"""Models for tests of kanify, and their outputs and states."""

from __future__ import annotations

import timm
import torch
from timm.layers import Mlp
from torch import Tensor, nn
from torch.nn import functional


class ByKeyword(nn.Module):
    """An MLP whose linear maps are called with keyword arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(input=self.act(self.fc1(input=x)))


class TwoModules(nn.Module):
    """An MLP in two modules, as in BERT: the first returns f(W_1 x), the second has W_2."""

    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.function = functional.silu
            self.dense = nn.Linear(16, 32)

        def forward(self, x: Tensor) -> Tensor:
            return self.function(self.dense(x))

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense = nn.Linear(32, 16)
            self.norm = nn.LayerNorm(16)

        def forward(self, hidden: Tensor, x: Tensor) -> Tensor:
            return self.norm(self.dense(hidden) + x)

    def __init__(self) -> None:
        super().__init__()
        self.outer, self.inner = self.Outer(), self.Inner()

    def forward(self, x: Tensor) -> Tensor:
        if x.isnan().any():  # a branch on data, which plain symbolic tracing cannot follow
            return x
        return self.outer(self.inner(x), x)


def encoder(**settings) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, **settings)
    return nn.TransformerEncoder(layer, 2)


def sequential(activation: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(16, 32), activation, nn.Dropout(0.1), nn.Linear(32, 8))


def vit() -> nn.Module:
    return timm.create_model("vit_micro_patch2_8", num_classes=10, in_chans=1)


def images(count: int = 4, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 1, 8, 8, generator=generator)


@torch.no_grad()
def output(model: nn.Module, *inputs: Tensor) -> Tensor:
    return model.eval()(*inputs)


def state(model: nn.Module) -> tuple:
    """All that kanify might change: modules, their attributes, the hooks among them, parameters."""

    def attributes(module: nn.Module) -> dict:
        # Containers may be changed in place, so that their sizes are compared too.
        return {
            name: (value, len(value) if isinstance(value, dict | list | set) else None)
            for name, value in vars(module).items()
        }

    return tuple(
        (name, id(module), attributes(module)) for name, module in model.named_modules()
    ), tuple((name, id(parameter)) for name, parameter in model.named_parameters())


MODELS = {
    "timm": (vit, ["blocks.0.mlp.act", "blocks.1.mlp.act", "blocks.2.mlp.act", "blocks.3.mlp.act"]),
    "norm": (lambda: Mlp(16, 32, norm_layer=nn.LayerNorm), ["act"]),
    "encoder": (encoder, ["layers.0.activation", "layers.1.activation"]),
    "decoder": (lambda: nn.TransformerDecoderLayer(16, 2, 32), ["activation"]),
    "lambda": (
        lambda: encoder(activation=lambda x: functional.gelu(x, approximate="tanh")),
        ["layers.0.activation", "layers.1.activation"],
    ),
    "sequential": (lambda: sequential(nn.ReLU(inplace=True)), ["1"]),
    "nested": (
        lambda: nn.Sequential(nn.Sequential(nn.Linear(8, 16), nn.SiLU()), nn.Linear(16, 8)),
        ["0.1"],
    ),
    "by keyword": (ByKeyword, ["act"]),
    "two modules": (TwoModules, ["inner.function"]),
}
