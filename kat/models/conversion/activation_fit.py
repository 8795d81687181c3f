"""Fits of a KAT's rationals to the activation of a ViT, and how far they move the outputs."""

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
    """The distance of a model's outputs from those of the ViT that it was made of.

    Args:
        max: max |KAT - ViT| / max |ViT|, over images and classes.
        rms: the same ratio of root mean squares.
        images: their number.

    Examples:
        >>> import kat
        >>> vit = kat.models.create_model("vit_micro").eval()
        >>> moved = kat.models.init_from_vit(kat.models.create_model("kat_micro"), vit).moved
        >>> moved.images, moved.rms < 0.05
        (8, True)
    """

    max: float
    rms: float
    images: int


def plain_twin(model: KAT, activation: nn.Module) -> KAT:
    """A copy of a KAT with timm's MLPs and this activation in place of its GR-KAN MLPs: a ViT."""
    twin = copy.deepcopy(model).eval()
    blocks: list[Any] = list(twin.blocks)
    for block in blocks:
        block.mlp = _plain_mlp(block.mlp, activation)
    return twin


def _plain_mlp(mlp: GRKANMlp, activation: nn.Module) -> Mlp:
    sizes = mlp.fc1.in_features, mlp.fc1.out_features, mlp.fc2.out_features
    plain = Mlp(*sizes, bias=mlp.fc1.bias is not None)
    plain.act, plain.norm = copy.deepcopy(activation), mlp.norm
    return plain.to(mlp.fc1.weight).eval()


@torch.no_grad()
def half_widths(vit: VisionTransformer, images: Tensor) -> list[int]:
    """For each block, the least integer r such that [-r, r] has 99.9 % of the activation's inputs.

    It is at least 3 and at most 10. A fit on a narrower interval is closer inside it, and deviates
    sooner outside.

    Args:
        vit: with timm's MLPs.
        images: (B, C, H, W), normalized.

    Raises:
        InputError: inputs that are not finite.
    """
    found: list[int] = []

    def record(_: nn.Module, __: Any, output: Tensor) -> None:
        sizes = output.flatten().abs()
        covered = sizes.kthvalue(math.ceil(_COVERED * len(sizes))).values.item()
        if not math.isfinite(covered):
            raise InputError("the source's activations are not finite on these images")
        found.append(min(max(math.ceil(covered), _NARROWEST), _WIDEST))

    blocks: list[Any] = list(vit.blocks)
    hooks = [block.mlp.fc1.register_forward_hook(record) for block in blocks]
    try:
        vit(images)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def fit_activation(
    activation: nn.Module, half_width: int, degree: tuple[int, int], form: str
) -> Coefficients:
    """The rational with the least maximum error on [-half_width, half_width].

    Raises:
        InputError: the activation has parameters, so it is not a single function.
    """
    from kat.nn.fitting import fit  # imports SciPy's optimizers

    if list(activation.parameters()):
        kind = type(activation).__name__
        raise InputError(f"the source's activation {kind} has parameters; it cannot be fitted")
    interval = (-float(half_width), float(half_width))
    made = fit(lambda x: activation(torch.from_numpy(x)).numpy(), degree, form, interval)
    return made.coefficients


@torch.no_grad()
def movement(model: nn.Module, vit: nn.Module, images: Tensor) -> Movement:
    """The distance of a KAT's outputs from those of its ViT on these images; 0 / 0 counts as 0.

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
        max=_ratio(difference.abs().max(), expected.abs().max()),
        rms=_ratio(difference.square().mean().sqrt(), expected.square().mean().sqrt()),
        images=len(images),
    )


def _ratio(size: Tensor, to: Tensor) -> float:
    return (size / to).item() if size > 0 else 0.0
