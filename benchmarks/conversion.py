"""How far ViT-T's logits move when it becomes KAT-T, for several fits of act2.

No pretrained weights are needed: the ViT's are random, scaled so that what enters GELU spreads by
the standard deviation in the first column, about a mean of minus half of it, as in trained ViTs.
The fits are measured on other images of noise than those that the chosen one was made on.

    python benchmarks/conversion.py                        # some minutes on one core
    python benchmarks/conversion.py --model small          # or base
"""

from __future__ import annotations

import argparse

import timm
import torch
from torch import nn

from kat.models import convert_vit
from kat.models.conversion.report import movement

FITS = {"chosen": {}, "gelu": "gelu", "gelu_wide": "gelu_wide", "swish": "swish"}
"""What act2 starts as; the chosen one is that of kat convert."""


def scaled(model: nn.Module, spread: float) -> nn.Module:
    """Weights with which all parts matter, and inputs of GELU of this spread."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        with torch.no_grad():
            if name.endswith("mlp.fc1.weight"):
                parameter.copy_(spread * noise / parameter.shape[1] ** 0.5)
            elif name.endswith("mlp.fc1.bias"):
                parameter.copy_(0.3 * noise - spread / 2)
            elif parameter.ndim == 2:
                parameter.copy_(noise / parameter.shape[1] ** 0.5)
            elif name.endswith(("pos_embed", "token")):
                parameter.copy_(0.5 * noise)
    return model.eval()


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny", choices=("tiny", "small", "base"))
    parser.add_argument("--spreads", nargs="+", type=float, default=[0.5, 1.0, 1.5, 2.0])
    parsed = parser.parse_args()
    print("| spread | act2 | r | max | RMS |\n|---|---|---|---|---|")
    images = torch.randn(4, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    for spread in parsed.spreads:
        vit = scaled(timm.create_model(f"vit_{parsed.model}_patch16_224"), spread)
        for name, act_init in FITS.items():
            args = {"act_init": act_init} if act_init else {}
            model, _, report = convert_vit(vit, f"kat_{parsed.model}_patch16_224", args=args)
            moved = movement(model, vit, images)
            widths = sorted(set(report.half_widths))
            shown = "-".join(map(str, widths[:: max(len(widths) - 1, 1)]))
            print(
                f"| {spread} | {name} | {shown} | {moved.max:.1e} | {moved.rms:.1e} |", flush=True
            )


if __name__ == "__main__":
    main()
