"""The fit of each act2 of a KAT to the activation of a ViT, where the activation's inputs are."""

from __future__ import annotations

import math
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
    """Return the coefficients of each act2: the least maximum error where the activation's inputs
    are.
    """
    from kat.nn.fitting import fit  # imports SciPy's optimizers

    def target(x: Any) -> Any:
        return activation(torch.from_numpy(x)).numpy()

    mlps, fits = gr_kan_mlps(model), {}
    of_blocks = half_widths(vit, images)
    for r in {of_blocks[block] for block in mlps}:
        act2: Any = next(iter(mlps.values())).act2
        fits[r] = fit(target, act2.degree, act2.form, (-float(r), float(r))).coefficients
    return [fits[of_blocks[block]] for block in mlps]


@torch.no_grad()
def half_widths(vit: VisionTransformer, images: Tensor) -> list[int]:
    """Return the least integer r of each block for which [-r, r] has 99.9 % of the activation's
    inputs.

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
