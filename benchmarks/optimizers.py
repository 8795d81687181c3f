"""Whether training diverges: learnt coefficients against the same functions held fixed.

    python benchmarks/optimizers.py --csv benchmarks/results/optimizers.csv

scikit-learn's 8x8 digits, 1,437 images for training and 360 for validation, batches of 64, no
warm-up, no schedule, no augmentation. ``mlp`` has four GR-KAN layers of width 128, ``kat`` is
kat_micro_patch2_8. SGD has momentum 0.9. Muon is torch's for the matrices; the rest has AdamW at
0.001. A run has diverged if its loss is not finite, or in the last epoch not below guessing's.

Arms:
    fixed        the coefficients are frozen: SiLU and identity that do not learn
    plain        the coefficients are parameters like all others
    adam         with SGD, the coefficients are left to AdamW
    groups       kat.param_groups; with Muon the coefficients are left to AdamW

Runs that the CSV file has are not repeated: a benchmark that was cut short resumes.
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import timm
import torch
from sklearn.datasets import load_digits
from timing import header, print_table
from torch import Tensor, nn
from torch.nn import functional

import kat
from kat.analysis.ablation import Estimate
from kat.files import replacing
from kat.nn import rationals

Optimizers = list[torch.optim.Optimizer]
KEY = ("model", "optimizer", "arm", "lr", "seed", "epochs")
COLUMNS = (*KEY, "diverged", "loss", "top1")
ARMS = ("fixed", "plain", "adam", "groups")
BATCH, GUESSING = 64, math.log(10)


def main() -> None:
    """Runs what the file lacks, and prints the table."""
    options = parse()
    done = read(options.csv)
    for key in product(options.models, options.optimizers, options.arms, options.lr):
        for seed in range(options.seeds):
            cell = (*key, seed, options.epochs)
            if tuple(map(str, cell)) not in done:
                done[tuple(map(str, cell))] = train(*cell)
                write(options.csv, done)
    print(header("cpu"))
    print_table(["model", "optimizer", "arm", *(f"lr {lr}" for lr in options.lr)],
                [[*key, *(summary(done, key, lr, options) for lr in options.lr)]
                 for key in product(options.models, options.optimizers, options.arms)])  # fmt: skip


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["mlp", "kat"], choices=["mlp", "kat"])
    parser.add_argument(
        "--optimizers", nargs="+", default=["sgd", "muon"], choices=["sgd", "muon", "adamw"]
    )
    parser.add_argument("--arms", nargs="+", default=["fixed", "plain", "groups"], choices=ARMS)
    parser.add_argument("--lr", nargs="+", type=float, default=[0.01, 0.03, 0.1])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--csv", type=Path, help="read and extend this file")
    options = parser.parse_args()
    if "adam" in options.arms and options.optimizers != ["sgd"]:
        parser.error("the arm 'adam' is for --optimizers sgd alone")
    return options


def train(
    name: str, optimizer: str, arm: str, lr: float, seed: int, epochs: int
) -> tuple[str, ...]:
    """Trains once: whether it diverged, the mean loss of the last epoch, top-1 in percent."""
    *_, val_images, val_labels = digits()
    steps = list(training(name, optimizer, arm, lr, seed, epochs))
    model, loss = steps[-1]
    if not math.isfinite(loss):
        return "1", "inf", "nan"
    mean = statistics.mean(loss for _, loss in steps[-(len(steps) // epochs) :])
    model.eval()
    with torch.no_grad():
        top1 = 100 * (model(val_images).argmax(-1) == val_labels).float().mean().item()
    return str(int(mean >= 0.99 * GUESSING)), f"{mean:.4f}", f"{top1:.2f}"


def training(
    name: str, optimizer: str, arm: str, lr: float, seed: int, epochs: int
) -> Iterator[tuple[nn.Module, float]]:
    """Trains; yields the model and the loss after each backward pass, until that is infinite."""
    torch.manual_seed(seed)
    images, labels, *_ = digits()
    model = MODELS[name]()
    used = {p for act in rationals(model).values() for p in act.parameters()}
    for coefficient in used:
        coefficient.requires_grad_(arm != "fixed")
    optimizers = OPTIMIZERS[optimizer](model, arm, lr, used)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(BATCH)[:-1]:
            model.train()
            loss = functional.cross_entropy(model(images[batch]), labels[batch])
            loss.backward()
            yield model, loss.item()
            if not loss.isfinite():
                return
            for stepper in optimizers:
                stepper.step()
            model.zero_grad()


def sgd(model: nn.Module, arm: str, lr: float, used: set[nn.Parameter]) -> Optimizers:
    """SGD with momentum."""
    if arm == "adam":
        others = [p for p in model.parameters() if p not in used]
        return [torch.optim.SGD(others, lr=lr, momentum=0.9), torch.optim.AdamW(used, lr=1e-3)]
    groups = kat.param_groups(model, lr) if arm == "groups" else model.parameters()
    return [torch.optim.SGD(groups, lr=lr, momentum=0.9)]


def muon(model: nn.Module, arm: str, lr: float, used: set[nn.Parameter]) -> Optimizers:
    """Muon for matrices, in the arm "plain" those of the coefficients, too; AdamW for the rest."""
    matrices = [p for p in trained(model) if p.ndim == 2 and (arm == "plain" or p not in used)]
    chosen = set(matrices)
    rest = [p for p in trained(model) if p not in chosen]
    return [torch.optim.Muon(matrices, lr=lr, weight_decay=0), torch.optim.AdamW(rest, lr=1e-3)]


def adamw(model: nn.Module, arm: str, lr: float, used: set[nn.Parameter]) -> Optimizers:
    """AdamW, all parameters at one rate."""
    groups = kat.param_groups(model, lr) if arm == "groups" else trained(model)
    return [torch.optim.AdamW(groups, lr=lr, weight_decay=0)]


OPTIMIZERS = {"sgd": sgd, "muon": muon, "adamw": adamw}


def trained(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that are not frozen."""
    return [p for p in model.parameters() if p.requires_grad]


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images (N, 1, 8, 8) from -1 to 1 and labels, for training and for validation."""
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(data.images, dtype=torch.float32)[order, None] / 8 - 1
    labels = torch.tensor(data.target)[order]
    return images[:1437], labels[:1437], images[1437:], labels[1437:]


def mlp() -> nn.Module:
    """A linear layer and four GR-KAN layers, all SiLU at the start."""
    hidden = [kat.GRKANLinear(128, 128) for _ in range(3)]
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), *hidden, kat.GRKANLinear(128, 10))


def micro() -> nn.Module:
    """A KAT of four blocks."""
    return timm.create_model("kat_micro_patch2_8", in_chans=1)


MODELS: dict[str, Callable[[], nn.Module]] = {"mlp": mlp, "kat": micro}


def summary(
    done: dict[tuple[str, ...], tuple[str, ...]],
    key: tuple[str, ...],
    lr: float,
    options: argparse.Namespace,
) -> str:
    """How many seeds diverged, and the mean top-1 of the others with its 95 % interval."""
    seeds = options.seeds
    runs = [done[tuple(map(str, (*key, lr, seed, options.epochs)))] for seed in range(seeds)]
    top1 = [float(accuracy) for diverged, _, accuracy in runs if diverged == "0"]
    bad = sum(diverged == "1" for diverged, _, _ in runs)
    shown = f", {Estimate.of(top1).text(1)} %" if top1 else ""
    return f"{bad} of {seeds}{shown}"


def read(path: Path | None) -> dict[tuple[str, ...], tuple[str, ...]]:
    """The runs that are done, by the columns of :data:`KEY`."""
    if path is None or not path.exists():
        return {}
    with path.open(newline="") as file:
        rows = list(csv.reader(line for line in file if not line.startswith("#")))[1:]
    return {tuple(row[: len(KEY)]): tuple(row[len(KEY) :]) for row in rows}


def write(path: Path | None, done: dict[tuple[str, ...], tuple[str, ...]]) -> None:
    """Writes all runs."""
    if path is None:
        return
    with replacing(path) as partial, partial.open("w", newline="") as file:
        file.writelines(f"# {line}\n" for line in header("cpu").splitlines())
        csv.writer(file).writerows([COLUMNS, *([*key, *run] for key, run in sorted(done.items()))])


if __name__ == "__main__":
    main()
