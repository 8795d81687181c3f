"""Times what an MLP may be in compiled code, against the compiled ViT: kat::rational, or other.

    python benchmarks/compiled.py
    python benchmarks/compiled.py --batch 1
    python benchmarks/compiled.py --amp --csv compiled.csv

  vit      timm's ViT
  op       the KAT as it is: F is the operator kat::rational, whose code the compiler does not see
  plain    F of plain operations, which the compiler fuses with what stands around them. They
           overflow from |x| = 1e7 on, in float32
  one_op   at inference the whole MLP is one operator, which runs in blocks of rows (CPU)

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
from kat.nn.execution import blocks
from kat.nn.execution.layer import Layer
from kat.ops import reference

COLUMNS = ("model", "inference", "inference ratio", "training step", "training ratio")


class Plain(kat.GRKANMlp):
    """The MLP of plain operations."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(_plain(self.act2, self.fc1(_plain(self.act1, x))))


def _plain(act: kat.GroupRational, x: Tensor) -> Tensor:
    return reference.plain_rational(x, act.weight_numerator, act.weight_denominator, act.form)


class OneOp(kat.GRKANMlp):
    """At inference the MLP as one operator."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return super().forward(x)
        parameters = []
        for act, linear in ((self.act1, self.fc1), (self.act2, self.fc2)):
            coefficients = act.weight_numerator, act.weight_denominator
            parameters += [*coefficients, linear.weight, linear.bias]
        return mlp_in_blocks(x, parameters)


@torch.library.custom_op("kat_benchmark::mlp", mutates_args=())
def mlp_in_blocks(x: Tensor, parameters: list[Tensor]) -> Tensor:
    """The MLP of two layers of form A, in blocks of rows."""
    layers = [Layer("A", *parameters[i : i + 4]) for i in (0, 4)]
    return blocks.run_in_blocks(x, layers)


@mlp_in_blocks.register_fake
def _(x: Tensor, parameters: list[Tensor]) -> Tensor:
    amp = torch.is_autocast_enabled(x.device.type)
    dtype = torch.get_autocast_dtype(x.device.type) if amp else x.dtype
    return x.new_empty(*x.shape[:-1], len(parameters[-1]), dtype=dtype)


CANDIDATES = {
    "vit": ("vit_tiny_patch16_224", None),
    "op": ("kat_tiny_patch16_224", None),
    "plain": ("kat_tiny_patch16_224", Plain),
    "one_op": ("kat_tiny_patch16_224", OneOp),
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
    if options.device != "cpu":
        del models["one_op"]
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
