"""Models for tests of kanify, and how to look at one."""

from __future__ import annotations

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.hooks import forward_pre_hooks


class ByKeyword(nn.Module):
    """The MLP whose linear maps have their inputs by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(input=self.act(self.fc1(input=x)))


class TwoModules(nn.Module):
    """The MLP in two modules, as in BERT: the first returns f(W_1 x), the second has W_2."""

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
    """All that kanify might change: modules, their hooks and attributes, and the parameters."""
    return tuple(
        (name, id(module), module.training, forward_pre_hooks(module), dict(vars(module)))
        for name, module in model.named_modules()
    ), tuple((name, id(parameter)) for name, parameter in model.named_parameters())
