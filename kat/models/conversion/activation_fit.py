"""A KAT's activations fitted to those of a ViT, and what that does to its outputs."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers import Mlp
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from kat.errors import InputError
from kat.models.kat import KAT
from kat.nn import Coefficients, GRKANMlp

_COVERED = 0.999
_NARROWEST, _WIDEST = 3, 10


@dataclass(frozen=True)
class Movement:
    """How far a model's outputs are from those of the ViT that it was made of.

    Args:
        max: max |KAT - ViT| / max |ViT|, over the images and the classes.
        rms: the same with root mean squares in place of the largest.
        images: how many there were.
    """

    max: float
    rms: float
    images: int


def plain_twin(model: KAT, activation: nn.Module) -> KAT:
    """A copy of a KAT with timm's MLP, of this activation, in place of each GR-KAN MLP: a ViT."""
    twin = copy.deepcopy(model).eval()
    blocks: list[Any] = list(twin.blocks)
    for block in blocks:
        block.mlp = _plain(block.mlp, activation)
    return twin


def _plain(mlp: GRKANMlp, activation: nn.Module) -> Mlp:
    sizes = mlp.fc1.in_features, mlp.fc1.out_features, mlp.fc2.out_features
    plain = Mlp(*sizes, bias=mlp.fc1.bias is not None)
    plain.act, plain.norm = copy.deepcopy(activation), mlp.norm
    return plain.to(mlp.fc1.weight).eval()


@torch.no_grad()
def half_widths(vit: VisionTransformer, images: Tensor) -> list[int]:
    """For each block, the least whole r with 99.9 % of the activation's inputs in [-r, r].

    No less than 3 and no more than 10: a fit on a narrow interval is closer inside, and leaves the
    function sooner outside.

    Args:
        vit: with timm's MLPs.
        images: (B, C, H, W), normalised.

    Raises:
        InputError: inputs that are not finite.
    """
    found: list[int] = []

    def note(_: nn.Module, __: Any, output: Tensor) -> None:
        sizes = output.flatten().abs()
        covered = sizes.kthvalue(math.ceil(_COVERED * len(sizes))).values.item()
        if not math.isfinite(covered):
            raise InputError("the source's activations are not finite on these images")
        found.append(min(max(math.ceil(covered), _NARROWEST), _WIDEST))

    blocks: list[Any] = list(vit.blocks)
    hooks = [block.mlp.fc1.register_forward_hook(note) for block in blocks]
    try:
        vit(images)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def fit_activation(
    activation: nn.Module, half_width: int, degree: tuple[int, int], form: str
) -> Coefficients:
    """The rational with the least largest error from the activation on [-half_width, half_width].

    Raises:
        InputError: the activation has parameters, so it is not one function.
    """
    from kat.nn.fitting import fit  # takes SciPy's optimisers along

    if list(activation.parameters()):
        kind = type(activation).__name__
        raise InputError(f"the source's activation {kind} has parameters; it cannot be fitted")
    interval = (-float(half_width), float(half_width))
    return fit(lambda x: activation(torch.tensor(x)).numpy(), degree, form, interval).coefficients


@torch.no_grad()
def movement(model: nn.Module, vit: nn.Module, images: Tensor) -> Movement:
    """How far a KAT's outputs are from those of its ViT on these images; 0 / 0 counts as 0.

    Raises:
        InputError: outputs that are not finite.
    """
    training = model.training
    expected, outputs = vit.eval()(images), model.eval()(images)
    model.train(training)
    for whose, values in (("source", expected), ("KAT", outputs)):
        if not values.isfinite().all():
            raise InputError(f"the {whose}'s outputs are not finite on these images")
    difference = outputs - expected
    return Movement(
        max=_relative(difference.abs().max(), expected.abs().max()),
        rms=_relative(difference.square().mean().sqrt(), expected.square().mean().sqrt()),
        images=len(images),
    )


def _relative(size: Tensor, to: Tensor) -> float:
    return (size / to).item() if size > 0 else 0.0
