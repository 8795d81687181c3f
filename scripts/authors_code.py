"""Runs the authors' katransformer.py, unchanged, on this library and compares it.

    python scripts/authors_code.py KAT_REPOSITORY RATIONAL_KAT_CU_REPOSITORY

The folders are checkouts of github.com/Adamdad/kat and github.com/Adamdad/rational_kat_cu.
kat_tiny_patch16_224 of katransformer.py, with two blocks and images of 64 pixels, is built three
times with one state dict: on kat.compat, on the authors' Triton kernels under Triton's interpreter,
and as this library's model of that name. Keys, logits and gradients of all parameters are compared
in float32. The authors' PyTorch code of the activation is left out, since it computes another
function than their kernels: it has x^j in place of |x|^j.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

import kat

os.environ["TRITON_INTERPRET"] = "1"
MODEL = "kat_tiny_patch16_224"
SIZE = {"depth": 2, "img_size": 64}
"""Small, since the interpreter is slow."""


def main() -> int:
    """Prints the table; exit code 1 if something differs by more than rounding."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("kat_repository", type=Path)
    parser.add_argument("rational_kat_cu_repository", type=Path)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    ours = timm.create_model(MODEL, **SIZE)
    assert isinstance(ours, kat.models.KAT)
    compat = _build(options.kat_repository, _provide_compat)
    authors = _build(
        options.kat_repository, lambda: _provide_authors(options.rational_kat_cu_repository)
    )
    _perturb(compat)
    authors.load_state_dict(compat.state_dict())
    ours.load_state_dict(compat.state_dict())
    expected = _compute(authors)
    print(f"{MODEL}, {len(expected) - 1} parameters, float32; the largest relative differences")
    print(f"{'against the authors':32} keys    logits    gradients")
    worst = 0.0
    for name, model in (("katransformer.py on kat.compat", compat), (f"kat's {MODEL}", ours)):
        found = _compute(model)
        equal = found.keys() == expected.keys()
        differences = {
            key: ((value - expected[key]).abs().max() / expected[key].abs().max()).item()
            for key, value in found.items()
        }
        logits = differences.pop("logits")
        gradients = max(differences.values())
        worst = max(worst, logits, gradients, 0.0 if equal else 1.0)
        print(f"{name:32} {'equal' if equal else 'DIFFER':6}  {logits:.1e}   {gradients:.1e}")
    return int(worst > 1e-3)


@torch.no_grad()
def _perturb(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "weight_numerator" in name or "weight_denominator" in name:
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))


def _provide_compat() -> None:
    importlib.import_module("kat.compat")


def _provide_authors(repository: Path) -> None:
    sys.path.insert(0, str(repository))
    importlib.import_module("kat_rational")


def _build(repository: Path, provide: Callable[[], None]) -> nn.Module:
    """The model of the authors' file, which replaces timm's entries of the same names."""
    for name in [n for n in sys.modules if n.split(".")[0] in ("kat_rational", "katransformer")]:
        del sys.modules[name]
    provide()
    sys.path.insert(0, str(repository))
    try:
        return importlib.import_module("katransformer").kat_tiny_patch16_224(**SIZE)
    finally:
        sys.path.remove(str(repository))


def _compute(model: nn.Module) -> dict[str, Tensor]:
    """Logits of a random image and the gradients of all parameters, by name."""
    model.eval()
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    logits = model(images)
    logits.square().sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"logits": logits.detach(), **gradients}


if __name__ == "__main__":
    sys.exit(main())
