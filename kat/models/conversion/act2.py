"""The fit of each act2 of a KAT to the activation of a ViT, where the activation's inputs are."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from kat.models.kat import KAT
from kat.nn import Coefficients, GRKANMlp

_COVERED = 0.999
_NARROWEST, _WIDEST = 3, 10


def gr_kan_mlps(model: KAT) -> dict[int, GRKANMlp]:
    """Return the GR-KAN MLPs, by the number of their block."""
    blocks: list[Any] = list(model.blocks)
    return {i: b.mlp for i, b in enumerate(blocks) if isinstance(b.mlp, GRKANMlp)}


def fit_act2(
    model: KAT, vit: VisionTransformer, activation: nn.Module, images: Tensor
) -> list[Coefficients]:
    """Return the coefficients of each act2 with the least maximum error at its inputs."""
    from kat.nn.fitting import fit  # imports SciPy's optimizers

    def target(x: Any) -> Any:
        return activation(torch.from_numpy(x)).numpy()

    @cache
    def fitted(degree: tuple[int, int], form: str, r: int) -> Coefficients:
        return fit(target, degree, form, (-r, r)).coefficients

    of_blocks = half_widths(vit, images)
    mlps = gr_kan_mlps(model).items()
    return [fitted(mlp.act2.degree, mlp.act2.form, of_blocks[block]) for block, mlp in mlps]


@torch.no_grad()
def half_widths(vit: VisionTransformer, images: Tensor) -> list[int]:
    """Return the least r of each block such that [-r, r] has 99.9 % of the activation's inputs.

    It is at least 3 and at most 10. A fit on a narrower interval is closer inside it, and deviates
    sooner outside.

    Args:
        vit: with timm's MLPs.
        images: (B, C, H, W), normalized.
    """
    found: list[int] = []

    def record(_: nn.Module, __: Any, output: Tensor) -> None:
        sizes = output.flatten().abs()
        covered = sizes.kthvalue(math.ceil(_COVERED * len(sizes))).values.item()
        found.append(min(max(math.ceil(covered), _NARROWEST), _WIDEST))

    blocks: list[Any] = list(vit.blocks)
    hooks = [block.mlp.fc1.register_forward_hook(record) for block in blocks]
    try:
        vit(images)
    finally:
        for hook in hooks:
            hook.remove()
    return found
