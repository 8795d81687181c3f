"""Compiles a model for C++ programs: a package of AOTInductor, with an input and its logits.

    python examples/aotinductor/package.py runs/digits digits.aoti.pt2

writes the package, and beside it ``digits.aoti.input.bin`` and ``digits.aoti.logits.bin``: float32
numbers, of two images and of what the model says in Python. ``host.cpp`` runs the package and
compares. The package is of plain operations, and holds code for the processor that made it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch.export import Dim

import kat
from kat.deploy import freeze
from kat.models import load_model


def main() -> None:
    """Exports, compiles, and writes the three files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="the folder of a run or a model")
    parser.add_argument("out", type=Path, help="the package, a .pt2 file")
    options = parser.parse_args()
    if options.out.suffix != ".pt2":
        parser.error(f"OUT must end in .pt2, got {options.out}")
    model, record = load_model(options.model)
    frozen = freeze(model)
    images = torch.randn(2, *record.input_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        program = torch.export.export(
            frozen, (images,), dynamic_shapes=({0: Dim("batch", max=256)},)
        )
        program = program.run_decompositions(kat.ops.decompositions())
        package = torch._inductor.aoti_compile_and_package(program, package_path=str(options.out))
        logits = frozen(images)
    images.numpy().tofile(options.out.with_suffix(".input.bin"))
    logits.numpy().tofile(options.out.with_suffix(".logits.bin"))
    print(f"{package}: {tuple(images.shape)} to {tuple(logits.shape)}")


if __name__ == "__main__":
    main()
