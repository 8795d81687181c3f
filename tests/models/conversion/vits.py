"""ViTs with weights in realistic sizes, and the distance of a model from one."""

from __future__ import annotations

import torch
from torch import nn

SMALL = {"img_size": 48, "depth": 2}
TINY = "kat_tiny_patch16_224"


def trained(model: nn.Module, spread: float = 1.2, seed: int = 0) -> nn.Module:
    """Weights as if trained: pre-activations of about this spread, attention that differs from
    token to token, MLPs that change the stream, position embeddings, and logits of about 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        fan_in = parameter.shape[-1]
        with torch.no_grad():
            if name.endswith("mlp.fc1.weight"):
                parameter.copy_(spread * fan_in**-0.5 * noise)
            elif parameter.ndim == 2 and "token" not in name:
                parameter.copy_(fan_in**-0.5 * noise)
            elif name.endswith("gamma"):
                parameter.copy_(0.5 + 0.1 * noise)
            elif name.endswith(("pos_embed", "token")):
                parameter.copy_(0.5 * noise)
            elif name.endswith("bias"):
                parameter.copy_(0.3 * noise)
    return model.eval()


def images(model: nn.Module, seed: int = 5) -> torch.Tensor:
    """Other noise than the fit has seen."""
    size = model.patch_embed.img_size
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, model.in_chans, *size, generator=generator)


@torch.inference_mode()
def distance(model: nn.Module, vit: nn.Module) -> tuple[float, float]:
    """max and RMS of the difference of the logits, relative to the ViT's."""
    x = images(vit)
    expected = vit(x)
    off = model(x) - expected
    largest = off.abs().max() / expected.abs().max()
    return largest.item(), (off.square().mean() / expected.square().mean()).sqrt().item()
