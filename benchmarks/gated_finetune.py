"""Fine-tunes ViTs of 0.2 M parameters to other classes: whole, by their rationals, by PEFT's LoRA.

    pip install peft
    python benchmarks/gated_finetune.py
    python benchmarks/gated_finetune.py --table       # of the runs that are done

Six tries an arm with seed 0: three learning rates, each with two of the head (or six of the head
alone); the best on validation images; then five other seeds. The three were placed around the best
of a pilot with four rates an arm, one of the head, and seed 0.

Two sources: vit_swiglu_micro_patch7_28 (gated MLPs with SiLU) and vit_mlp_micro_patch7_28 (plain
MLPs with GELU), trained for 4 epochs on the 30,000 training images of classes 0 to 4 of
Fashion-MNIST and kept in --sources. The task: classes 5 to 9 from --images images, which the seed
draws, as it does the new head, the adapters and the order of the batches. The rate is chosen on
2,000 other training images; "test" is the top-1 on the 5,000 test images. All arms train for
--epochs epochs with AdamW without weight decay, batches of 32, a tenth of the steps of warm-up and
then linear decay.

Arms of the source with gated MLPs:
  head         the head alone
  full         everything
  gated        kat.kanify with 9 groups (the gates are 171 wide), then everything
  lora         PEFT's LoRA of rank 8, alpha 16, on the attention's query, key and value
  lora_all     the same on all linear maps of the blocks
  lora_1       as lora, of rank 1, alpha 2
  bitfit       the biases
  rational     kat.kanify, then kat.adapt(model, "rational")
  per_channel  as rational, with 171 groups that share nothing
  low_rank     kat.kanify, then kat.adapt(model, "low_rank", rank=2)
  parallel     kat.adapt(model, "parallel", width=16)

Arms of the source with plain MLPs:
  head             the head alone
  full             everything, the activations as they are
  second           kat.kanify, then everything
  rational_second  kat.kanify, then kat.adapt(model, "rational")

benchmarks/results/gated_finetune.csv also has "both" and "rational" of the plain source, with
another rational before each first linear map. The script at commit fcb9f5af makes and prints them.

Every kanify is calibrated with 256 of the images.

Columns: trained parameters without the head's 325; bytes of the optimizer's state with them; CPU
seconds of training on one thread; top-1 in % on validation and test images.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from arms import COSTS, costs, parameter_groups, print_runs
from torch import Tensor, nn
from torch.nn import functional

import kat
from examples.domains.rows import IDENTITY, Rates, Runs, warm_up_and_decay
from kat.data import DataConfig, open_split
from kat.files import replacing
from kat.models import create_model

SOURCES = {"gated": "vit_swiglu_micro_patch7_28", "plain": "vit_mlp_micro_patch7_28"}
WHOLE, RATIONAL, LORA = (3e-4, 1e-3, 3e-3), (3e-2, 1e-1, 3e-1), (1e-3, 3e-3, 1e-2)
HEAD = (3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
RATES = {
    "gated": {
        "head": HEAD,
        "full": WHOLE,
        "gated": WHOLE,
        "lora": LORA,
        "lora_all": LORA,
        "lora_1": (3e-3, 1e-2, 3e-2),
        "bitfit": (1e-2, 3e-2, 1e-1),
        "rational": RATIONAL,
        "per_channel": RATIONAL,
        "low_rank": RATIONAL,
        "parallel": (3e-3, 1e-2, 3e-2),
    },
    "plain": {
        "head": HEAD,
        "full": WHOLE,
        "second": WHOLE,
        "rational_second": RATIONAL,
    },
}
HEAD_RATES = (1e-2, 1e-1)
MINUS = {"gated": ("full", "lora", "head"), "plain": ("full", "second")}
KANIFIED = ("gated", "rational", "per_channel", "low_rank", "second", "rational_second")
GROUPS = {"gated": 9, "plain": 8}
PER_CHANNEL = kat.KanifyConfig(groups=171, share="none")
BATCH, CALIBRATION = 32, 256
SOURCE_RATE, SOURCE_BATCH, SOURCE_EPOCHS = 2e-3, 128, 4
VALIDATION = 2000
"""Images to choose the rates with."""
MEASURES = ("valid", "test")
TUNED = ("rate", "head rate")
COLUMNS = (*IDENTITY, *TUNED, "source", "epochs", "images", *COSTS, *MEASURES)

Labeled = tuple[Tensor, Tensor]
"""(n, 1, 28, 28) images and (n,) labels."""


def main() -> None:
    """Makes the runs that the table lacks, and prints it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="fashion_mnist", help="or fashion_mnist:PATH")
    parser.add_argument("--source", nargs="+", choices=SOURCES, default=list(SOURCES))
    arms = list(dict.fromkeys(arm for of_source in RATES.values() for arm in of_source))
    parser.add_argument("--arm", nargs="+", choices=arms, help="by default all of the source")
    parser.add_argument("--seed", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--images", type=int, default=1000, help="to fine-tune with")
    parser.add_argument("--sources", type=Path, default=Path("build/gated_finetune"))
    parser.add_argument("--csv", type=Path, default=Path("benchmarks/results/gated_finetune.csv"))
    parser.add_argument("--table", action="store_true", help="make no runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for source in options.source:
        settings = {"source": source, "epochs": options.epochs, "images": options.images}
        runs = Runs(options.csv, COLUMNS, TUNED, settings, valid="valid")
        arms = [arm for arm in RATES[source] if options.arm is None or arm in options.arm]
        if not options.table:
            state = source_state(options, source)
            task = Task(options)
            show_change(source, state, task)
            tries = {arm: tries_of(source, arm) for arm in arms}
            runs.make(tries, options.seed, partial(run, source, state, task, options.epochs))
        print(f"{source}: {SOURCES[source]}")
        print_runs(runs, arms, MEASURES, MINUS[source], digits=2)


class Task:
    """Classes 5 to 9: the images to draw from, and those to validate and to test with."""

    def __init__(self, options: argparse.Namespace) -> None:
        images, labels = read(options.data, "train", range(5, 10))
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        valid, pool = order[:VALIDATION], order[VALIDATION:]
        self.pool, self.valid = (images[pool], labels[pool]), (images[valid], labels[valid])
        self.test = read(options.data, "val", range(5, 10))
        self.images = options.images

    def draw(self, seed: int) -> Labeled:
        """The training images of a seed."""
        images, labels = self.pool
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
        return images[order[: self.images]], labels[order[: self.images]]


def tries_of(source: str, arm: str) -> list[Rates]:
    """All pairs of rates that an arm tries."""
    rates = RATES[source][arm]
    pairs = zip(rates, rates, strict=True) if arm == "head" else product(rates, HEAD_RATES)
    return [dict(zip(TUNED, pair, strict=True)) for pair in pairs]


def run(
    source: str,
    state: dict[str, Tensor],
    task: Task,
    epochs: int,
    arm: str,
    rates: Rates,
    seed: int,
    tuning: bool,
) -> dict[str, Any]:
    """Trains and evaluates once."""
    data = task.draw(seed)
    torch.manual_seed(seed)
    model = adapted(trained(source, state), source, arm, data[0])
    groups = parameter_groups(model, *rates.values())
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    start = time.process_time()
    train(model, optimizer, data, epochs, BATCH, seed)
    row = costs(model, optimizer, time.process_time() - start)
    row["valid"] = top1(model, task.valid)
    if not tuning:
        row["test"] = top1(model, task.test)
    return row


def adapted(model: nn.Module, source: str, arm: str, images: Tensor) -> nn.Module:
    """The model with what the arm trains."""
    if arm in KANIFIED:
        usual = kat.KanifyConfig(groups=GROUPS[source])
        kanified(model, PER_CHANNEL if arm == "per_channel" else usual, images)
    if arm.startswith("lora"):
        return with_lora(model, arm)
    if arm in ("head", "bitfit"):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(
                name.startswith("head") or (arm == "bitfit" and name.endswith(".bias"))
            )
    kind = "rational" if arm == "per_channel" else arm.removesuffix("_second")
    if kind in ("rational", "low_rank", "parallel"):
        sizes = {"low_rank": {"rank": 2}, "parallel": {"width": 16}}.get(kind, {})
        kat.adapt(model, kind, modules_to_save="head", **sizes)
    return model


def kanified(model: nn.Module, config: kat.KanifyConfig, images: Tensor) -> kat.models.kanify.Plan:
    """Puts rationals in the place of the activations, fitted to their inputs on some images."""
    batches = images[:CALIBRATION].split(BATCH)
    return kat.kanify(model, config=config, calibration=batches)


def with_lora(model: nn.Module, arm: str) -> nn.Module:
    """PEFT's LoRA, with alpha twice the rank."""
    from peft import LoraConfig, get_peft_model

    rank = 1 if arm == "lora_1" else 8
    maps = ["qkv", "attn.proj", "fc1_g", "fc1_x", "fc2"] if arm == "lora_all" else ["qkv"]
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=maps, modules_to_save=["head"])
    return get_peft_model(model, config)


def show_change(source: str, state: dict[str, Tensor], task: Task) -> None:
    """Prints how far the logits of the source move on test images when it is turned."""
    model = built(source)
    model.load_state_dict(state)
    images, test = task.draw(0)[0], task.test[0][:1000]
    with torch.no_grad():
        before = model.eval()(test)
        print(kanified(model, kat.KanifyConfig(groups=GROUPS[source]), images))
        moved = ((model(test) - before).norm() / before.norm()).item()
    print(f"{source}: the logits of the source move by {moved:.1e}", flush=True)


def built(source: str) -> nn.Module:
    """The model of a source before it is trained."""
    return create_model(SOURCES[source], in_chans=1, num_classes=5)


def trained(source: str, state: dict[str, Tensor]) -> nn.Module:
    """The trained source with a new head."""
    model: Any = built(source)
    model.load_state_dict(state)
    model.reset_classifier(5)
    return model


def source_state(options: argparse.Namespace, source: str) -> dict[str, Tensor]:
    """The weights of the source, which is trained unless it has been."""
    path = options.sources / f"{source}.pt"
    if not path.exists():
        torch.manual_seed(0)
        model = built(source)
        groups = kat.param_groups(model, SOURCE_RATE, weight_decay=0.05)
        data = read(options.data, "train", range(5))
        optimizer = torch.optim.AdamW(groups)
        train(model, optimizer, data, SOURCE_EPOCHS, SOURCE_BATCH, seed=0)
        print(
            f"{source}: top-1 {top1(model, read(options.data, 'val', range(5)))} % on classes 0-4"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            torch.save(model.state_dict(), partial)
    return torch.load(path, weights_only=True)


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Labeled,
    epochs: int,
    batch: int,
    seed: int,
) -> None:
    """Minimizes the cross-entropy, gradients clipped to a norm of 1."""
    images, labels = data
    order = torch.Generator().manual_seed(seed)
    schedule = warm_up_and_decay(optimizer, epochs * -(-len(labels) // batch))
    model.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(labels), generator=order).split(batch):
            functional.cross_entropy(model(images[chosen]), labels[chosen]).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()


@torch.no_grad()
def top1(model: nn.Module, data: Labeled) -> float:
    """The share of images that are classified right, in %."""
    model.eval()
    images, labels = data
    logits = torch.cat([model(part) for part in images.split(500)])
    return round(100 * (logits.argmax(1) == labels).float().mean().item(), 2)


def read(name: str, split: str, classes: range) -> Labeled:
    """The images of some classes, normalized, and their labels, from 0."""
    data: Any = open_split(DataConfig(name), split)
    labels = torch.from_numpy(data.source.labels.astype("int64"))
    kept = (labels >= classes.start) & (labels < classes.stop)
    pixels = torch.from_numpy(data.source.pixels.copy())[kept, None].float() / 255
    return (pixels - data.mean[0]) / data.std[0], labels[kept] - classes.start


if __name__ == "__main__":
    main()
