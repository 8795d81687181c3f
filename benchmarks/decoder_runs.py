"""Runs of examples/decoder.py: divergence, bits per byte, coefficients and their gradients.

    apt-get install python3-doc
    TEXT=/usr/share/doc/python3-doc/html/_sources
    python benchmarks/decoder_runs.py $TEXT
    python benchmarks/decoder_runs.py $TEXT --reproduce --depth 12

The first makes 1,000 steps with AdamW and with Muon, with GELU (0 groups) and with GR-KAN, on a
fifth of the example's model, which has --width 128 --depth 4. The second repeats, in 150 steps each
at nearly the peak rate, what went wrong in a public language model with GR-KAN (nanokan): a slope
of 0 of |b| at b = 0, coefficients in Muon, and a learning rate of 0.5 for coefficients with no,
global and separate clipping of the gradients.

A row is added to the CSV file after each run; rows that are there are not made again. A run has
diverged if its loss is not finite or ends above its start. ``share`` is the norm of the gradient of
all coefficients relative to the norm of the whole gradient, median and largest of all steps.
``moved`` is the part of the denominator coefficients that changed by more than 1e-6.
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

from decoder import Config, Run, bits_per_byte, read

import kat
from kat.nn import rationals
from kat.training.record.provenance import provenance

POLYNOMIALS = {
    "act1": (0.0, 1.0, 0.0, 0.0, 0.0, 0.0),
    "act2": (0.0929108709, 0.5, 0.22982724, 0.0, -0.00744298473, 0.0),
}
"""The identity, and a fit to GELU on [-4, 4]."""
SHORT = 150
"""Steps of a run of ``--reproduce``."""
RESULTS = Path(__file__).parent / "results" / "decoder.csv"
MATRIX_RATE = 0.02
"""The learning rate of Muon in nanokan; AdamW has 0.5 for the coefficients."""


@dataclass(frozen=True)
class Arm:
    """A way to train; the columns of a row that name the run."""

    run: str
    optimizer: str
    groups: int
    seed: int
    steps: int
    clip: str = "global"
    """Clip the gradient of all parameters, or of the coefficients apart from all others, or of
    matrices, coefficients and the rest apart; or none.
    """
    start: str = "form A"
    """The rationals: form A as the library makes it, or form B with b = 0, or b near 0."""
    coefficient_lr: float = 2e-3
    width: int = 64
    depth: int = 3


def main() -> None:
    """Make the runs that the file lacks."""
    parser = argparse.ArgumentParser(description="Make the runs that the CSV file lacks.")
    parser.add_argument("text", type=Path, nargs="+")
    parser.add_argument("--reproduce", action="store_true")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--depth", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    text, held_out = read(options.text)
    made = provenance(torch.device("cpu"))
    RESULTS.touch()
    with RESULTS.open(newline="") as file:
        done = [row[: len(fields(Arm))] for row in csv.reader(file)]
    for arm in nanokan() if options.reproduce else ours():
        arm = replace(arm, width=options.width, depth=options.depth)
        if [str(value) for value in astuple(arm)] in done:
            continue
        row = {**asdict(arm), **train(arm, text, held_out), **made}
        with RESULTS.open("a", newline="") as file:
            writer = csv.DictWriter(file, row, lineterminator="\n")
            if file.tell() == 0:
                writer.writeheader()
            writer.writerow(row)


def ours() -> Iterator[Arm]:
    """The runs of the example, then those with other clipping."""
    for clip, seed in product(("global", "apart"), (0, 1)):
        for groups, optimizer in product((4, 16, 0), ("adamw", "muon")):
            yield Arm("example", optimizer, groups, seed, 1000, clip)
    for optimizer in ("adamw", "muon"):
        yield Arm("example", optimizer, 8, 0, 1000, "apart")
    for seed in (0, 1):
        yield Arm("example", "adamw", 16, seed, 1000, "coefficients")


def nanokan() -> Iterator[Arm]:
    """What went wrong, each beside the run that differs in one thing."""
    yield Arm("slope 0 at b = 0", "adamw", 8, 0, SHORT, "apart", "form B, b = 0")
    yield Arm("slope 1 at b = 0", "adamw", 8, 0, SHORT, "apart", "form B, b = 0")
    yield Arm("coefficients in Muon", "muon", 8, 0, SHORT, "apart", coefficient_lr=MATRIX_RATE)
    yield Arm("coefficients in AdamW", "muon", 8, 0, SHORT, "apart")
    tried = [("none", 0.5), ("global", 0.5), ("apart", 0.5), ("global", 2e-3)]
    for (clip, rate), groups in product(tried, (16, 4)):
        yield Arm("nanokan", "muon", groups, 0, SHORT, clip, "form B, b near 0", rate)


class SlopeZero(kat.GroupRational):
    """Form B in plain torch, where |s| has the slope 0 at s = 0."""

    def forward(self, x: Tensor, v: Tensor | None = None) -> Tensor:
        """Return F(x)."""
        z = x.unflatten(-1, (self.num_groups, -1))
        p, s = torch.zeros_like(z), torch.zeros_like(z)
        for a in self.weight_numerator[0].flip(0):
            p = p * z + a
        for b in self.weight_denominator.T.flip(0):
            s = (s + b[:, None]) * z
        return (p / (1 + s.abs())).flatten(-2)


class Variant(Run):
    """A run of the example with the changes of an arm."""

    def __init__(self, arm: Arm) -> None:
        self.arm = arm
        config = Config(arm.optimizer, arm.groups, arm.width, arm.depth, seed=arm.seed)
        config.steps = arm.steps if arm.run == "example" else 10 * arm.steps
        super().__init__(config)

    def make_optimizers(self) -> list[torch.optim.Optimizer]:
        """Return the optimizers of the example, or nanokan's with their rates."""
        arm = self.arm
        if arm.start != "form A":
            for name in rationals(self.model):
                parent, _, child = name.rpartition(".")
                setattr(self.model.get_submodule(parent), child, rational(arm, child))
            self.parts = kat.split_parameters(self.model)
        if arm.run == "example" or arm.optimizer == "adamw":
            return super().make_optimizers()
        matrices, coefficients, rest = self.parts
        if arm.run == "coefficients in Muon":
            matrices, coefficients = [*matrices, *coefficients], []
        lr = self.config.lr
        inner = {"params": matrices, "factor": MATRIX_RATE / lr}
        outer = {"params": rest, "factor": 1.0}
        own = {"params": coefficients, "factor": arm.coefficient_lr / lr, "betas": (0.8, 0.95)}
        muon = torch.optim.Muon([inner], weight_decay=0.1)
        adamw = torch.optim.AdamW([outer, own], betas=(0.9, 0.95), weight_decay=0.0)
        for optimizer in (muon, adamw):
            optimizer.register_step_pre_hook(scale)
        return [muon, adamw]

    def clip(self) -> float:
        """Clip as the arm does, and return the coefficients' share of the norm."""
        matrices, coefficients, rest = self.parts
        norms = [nn.utils.get_total_norm(p.grad for p in part) for part in self.parts]
        parts = {
            "global": [list(self.model.parameters())],
            "coefficients": [coefficients, [*matrices, *rest]],
            "apart": self.parts,
        }
        for part in parts.get(self.arm.clip, []):
            nn.utils.clip_grad_norm_(part, 1.0)
        return (norms[1] / torch.stack(norms).norm()).item()


def rational(arm: Arm, child: str) -> kat.GroupRational:
    """Return a rational of form B with a polynomial as its initial function, as nanokan's."""
    initial = kat.Coefficients(POLYNOMIALS[child], (0.0,) * 4, form="B")
    kind = SlopeZero if arm.run == "slope 0 at b = 0" else kat.GroupRational
    made = kind(arm.groups, init=initial, form="B")
    if arm.start == "form B, b near 0":
        nn.init.normal_(made.weight_denominator, std=0.01)
    return made


def scale(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    """Multiply the learning rate of each group by its factor, before a step."""
    for group in optimizer.param_groups:
        group["lr"] *= group["factor"]


def train(arm: Arm, text: Tensor, held_out: Tensor) -> dict[str, Any]:
    """Train once, and return the columns of the outcome."""
    run = Variant(arm)
    b = [act.weight_denominator for act in rationals(run.model).values()]
    before = [p.detach().clone() for p in b]
    losses, shares, start = [], [], time.perf_counter()
    try:
        while run.step < arm.steps:
            loss, share = run.train_step(text)
            losses.append(loss)
            shares.append(share)
    except SystemExit:  # the loss is not finite
        losses.append(math.nan)
    diverged = not losses[-1] < losses[0]
    moved = [
        ((p - old).abs() > 1e-6).float().mean().item() for p, old in zip(b, before, strict=True)
    ]
    largest = [p.detach().abs().max().item() for p in kat.split_parameters(run.model).coefficients]
    return {
        "bits": round(bits_per_byte(run.model, held_out), 4),
        "diverged": run.step if diverged else "no",
        "largest_coefficient": f"{max(largest):.3f}" if largest else "",
        "moved": f"{statistics.mean(moved):.3f}" if moved else "",
        "share_median": round(statistics.median(shares), 3),
        "share_max": round(max(shares), 3),
        "seconds": round(time.perf_counter() - start),
    }


if __name__ == "__main__":
    main()
