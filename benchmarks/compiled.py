"""Times what an MLP may be in compiled code, against the compiled ViT: kat::rational, or other.

    python benchmarks/compiled.py
    python benchmarks/compiled.py --batch 1
    python benchmarks/compiled.py --amp --csv compiled.csv

  vit      timm's ViT
  kat      the KAT as it is: at inference on a CPU, but for small batches, the MLP is one operator,
           kat::grkan_mlp, which runs in blocks of rows; elsewhere F is the operator kat::rational.
           The compiler sees into neither
  op       F is the operator kat::rational, everywhere
  plain    F of plain operations, which the compiler fuses with what stands around them. They
           overflow from |x| = 1e7 on, in float32

Each block of a model is compiled by itself. The models take turns; times are medians in ms, ratios
are to the ViT. A training step is a forward and a backward pass.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import timm
import torch
from timing import header, keep_freed_memory, medians, print_table, take_turns, write_csv
from torch import Tensor, nn
from train_step import inference_step, training_step

import kat
from kat.ops import reference

COLUMNS = ("model", "inference", "inference ratio", "training step", "training ratio")


class Plain(kat.GRKANMlp):
    """The MLP of plain operations."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(_plain(self.act2, self.fc1(_plain(self.act1, x))))


def _plain(act: kat.GroupRational, x: Tensor) -> Tensor:
    return reference.plain_rational(x, act.weight_numerator, act.weight_denominator, form=act.form)


class Rational(kat.GRKANMlp):
    """Without the operator of the whole MLP."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act2(self.fc1(self.act1(x))))


CANDIDATES = {
    "vit": ("vit_tiny_patch16_224", None),
    "kat": ("kat_tiny_patch16_224", None),
    "op": ("kat_tiny_patch16_224", Rational),
    "plain": ("kat_tiny_patch16_224", Plain),
}


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--amp", action="store_true", help="autocast to bfloat16")
    parser.add_argument("--allocator", choices=("keep", "default"), default="default")
    parser.add_argument("--seconds", type=float, default=20.0, help="time for each of the two")
    parser.add_argument("--csv", type=Path, help="also write the table there")
    options = parser.parse_args()
    if options.allocator == "keep":
        keep_freed_memory()
    images = torch.randn(options.batch, 3, 224, 224, device=options.device)
    labels = torch.randint(0, 1000, (options.batch,), device=options.device)
    models = {name: compiled_model(name, options.device) for name in CANDIDATES}
    inference = {n: inference_step(m, images, options) for n, m in models.items()}
    training = {n: training_step(m, images, labels, options) for n, m in models.items()}
    idle = medians(take_turns(inference, options.seconds, options.device))
    busy = medians(take_turns(training, options.seconds, options.device))
    rows = [
        [name, idle[name], idle[name] / idle["vit"], busy[name], busy[name] / busy["vit"]]
        for name in models
    ]
    print(header(options.device))
    print_table(COLUMNS, rows)
    if options.csv:
        write_csv(options.csv, options.device, COLUMNS, rows)


def compiled_model(name: str, device: str) -> nn.Module:
    """A candidate, each block of which is compiled."""
    torch.manual_seed(0)
    model_name, mlp = CANDIDATES[name]
    model = timm.create_model(model_name).to(device)
    for module in model.modules():
        if mlp and isinstance(module, kat.GRKANMlp):
            module.__class__ = mlp
    for block in model.blocks:
        block.compile(dynamic=False)
    return model


if __name__ == "__main__":
    main()
