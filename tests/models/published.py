"""The official KAT, independently of the package: names and shapes of its state dict, and its
function in float64."""

from __future__ import annotations

import torch
from torch import Tensor

WIDTHS = {"tiny": 192, "small": 384, "base": 768}
HEAD_WIDTH = 64


def official_state(
    size: str, *, depth: int = 12, classes: int = 1000, grid: int = 14, seed: int = 0
) -> dict[str, Tensor]:
    """Random weights by the names and in the shapes of the official files."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, std: float, mean: float = 0.0) -> Tensor:
        return mean + std * torch.randn(*shape, generator=generator)

    width = WIDTHS[size]
    state = {
        "cls_token": normal(1, 1, width, std=0.5),
        "pos_embed": normal(1, grid * grid + 1, width, std=0.5),
        "patch_embed.proj.weight": normal(width, 3, 16, 16, std=768**-0.5),
        "patch_embed.proj.bias": normal(width, std=0.1),
    }
    linear = {
        "attn.qkv": (3 * width, width),
        "attn.proj": (width, width),
        "mlp.fc1": (4 * width, width),
        "mlp.fc2": (width, 4 * width),
    }
    for block in range(depth):
        at = f"blocks.{block}"
        for name in ("norm1", "norm2"):
            state[f"{at}.{name}.weight"] = normal(width, std=0.1, mean=1.0)
            state[f"{at}.{name}.bias"] = normal(width, std=0.1)
        for name, shape in linear.items():
            state[f"{at}.{name}.weight"] = normal(*shape, std=shape[1] ** -0.5)
            state[f"{at}.{name}.bias"] = normal(shape[0], std=0.1)
        for act, start in (("act1", (0.03, 1.1, -0.02, 0.01)), ("act2", (0.0, 0.5, 0.3, 0.03))):
            numerator = torch.tensor([[*start, 0.002, 0.0002]])
            state[f"{at}.mlp.{act}.weight_numerator"] = numerator * (1 + normal(1, 6, std=0.2))
            # some are negative, as in trained models; the formula uses their absolute values
            state[f"{at}.mlp.{act}.weight_denominator"] = normal(8, 4, std=0.03)
    state["norm.weight"] = normal(width, std=0.1, mean=1.0)
    state["norm.bias"] = normal(width, std=0.1)
    state["head.weight"] = normal(classes, width, std=width**-0.5)
    state["head.bias"] = normal(classes, std=0.1)
    return state


def published_logits(state: dict[str, Tensor], images: Tensor) -> Tensor:
    """The logits of the published model, form A, in float64: (B, classes)."""
    w = {name: value.double() for name, value in state.items()}
    width = w["cls_token"].shape[-1]
    patches = torch.nn.functional.unfold(images.double(), 16, stride=16).mT
    x = patches @ w["patch_embed.proj.weight"].flatten(1).T + w["patch_embed.proj.bias"]
    x = torch.cat([w["cls_token"].expand(len(x), -1, -1), x], 1) + w["pos_embed"]
    for block in range(1 + max(int(n.split(".")[1]) for n in w if n.startswith("blocks."))):
        at = f"blocks.{block}"
        y = _affine(_norm(x, w, f"{at}.norm1"), w, f"{at}.attn.qkv")
        q, k, v = (_heads(part) for part in y.split(width, -1))
        scores = q @ k.mT / HEAD_WIDTH**0.5
        y = (scores.exp() / scores.exp().sum(-1, keepdim=True)) @ v
        x = x + _affine(y.transpose(1, 2).flatten(2), w, f"{at}.attn.proj")
        y = _norm(x, w, f"{at}.norm2")
        y = _affine(_rational(y, w, f"{at}.mlp.act1"), w, f"{at}.mlp.fc1")
        x = x + _affine(_rational(y, w, f"{at}.mlp.act2"), w, f"{at}.mlp.fc2")
    return _affine(_norm(x[:, 0], w, "norm"), w, "head")


def _affine(x: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def _norm(x: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    centered = x - x.mean(-1, keepdim=True)
    scaled = centered / (centered.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]


def _heads(x: Tensor) -> Tensor:
    return x.unflatten(-1, (-1, HEAD_WIDTH)).transpose(1, 2)


def _rational(x: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    """P(x) / (1 + sum_j |b_j| |x|^j), the b_j of each of 8 groups of channels."""
    a, b = w[f"{name}.weight_numerator"][0], w[f"{name}.weight_denominator"].abs()
    groups = x.unflatten(-1, (8, -1))
    top = sum(a[i] * groups**i for i in range(6))
    bottom = 1 + sum(b[:, j - 1, None] * groups.abs() ** j for j in range(1, 5))
    return (top / bottom).flatten(-2)
