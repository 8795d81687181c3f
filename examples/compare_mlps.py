"""Which MLP suits your data? GELU, squared ReLU, SwiGLU and GR-KAN, tuned alike.

    pip install "kolmogorov-arnold-transformer[examples]"
    python examples/compare_mlps.py --images digits --steps 100          # a first look, a minute
    python examples/compare_mlps.py --images folder:photos --size 64 --seeds 1 2 3 4 5
    python examples/compare_mlps.py --text notes.txt docs/ --steps 2000

The models are a ViT of timm for images, and a Llama of transformers on the bytes of text. Only the
MLP of each block differs. All kinds have as many parameters to 1 %, draw their weights by the same
rule, see the same batches, and try the same learning rates: seed 0 chooses the one with the lowest
validation error. With it the other seeds are tested. Differences are paired by seed.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

import kat
from kat.analysis.ablation import Estimate
from kat.cli.errors import run_command
from kat.data import DataConfig, eval_transform, make_loader, open_split, preprocessing
from kat.errors import InputError
from kat.nn import init_grkan_
from kat.tables import print_table

CONTEXT = 256


class SquaredReLU(nn.Module):
    """max(x, 0)^2."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the squares."""
        return x.relu().square()


class Mlp(nn.Module):
    """W2 f(W1 x + b1) + b2, or gated W2 (f(Wg x + bg) (W1 x + b1)) + b2."""

    def __init__(self, width: int, hidden: int, act: nn.Module, *, gated: bool = False) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.gate = nn.Linear(width, hidden) if gated else None
        self.act = act
        for linear in filter(None, (self.fc1, self.gate)):
            init_grkan_(linear, nn.Identity(), "variance_preserving")
        init_grkan_(self.fc2, act, "variance_preserving")

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., width) to the same shape."""
        hidden = self.fc1(x)
        return self.fc2(self.act(hidden) if self.gate is None else self.act(self.gate(x)) * hidden)


MLPS: dict[str, Callable[[int, int], nn.Module]] = {
    "gelu": lambda width, hidden: Mlp(width, hidden, nn.GELU()),
    "relu2": lambda width, hidden: Mlp(width, hidden, SquaredReLU()),
    "swiglu": lambda width, hidden: Mlp(width, 2 * hidden // 3, nn.SiLU(), gated=True),
    "grkan": kat.GRKANMlp,
    "gated_grkan": lambda width, hidden: kat.GatedGRKANMlp(width, 2 * hidden // 3),
}
"""By name, makes an MLP from its width and the hidden width of the MLPs that are not gated."""


class Part(NamedTuple):
    """Inputs and targets: images and classes, or windows of text and the bytes that follow."""

    x: Tensor
    y: Tensor


class Images:
    """A ViT that classifies images: a tenth of the training split chooses, the other one tests."""

    error = "error, %"

    def __init__(self, options: argparse.Namespace) -> None:
        config = DataConfig(options.images, image_size=options.size, batch_size=256)
        seen, self.test = self._read(config, "train"), self._read(config, "val")
        order = torch.randperm(len(seen.y), generator=torch.Generator().manual_seed(0))
        held_out, rest = order.tensor_split([len(order) // 10])
        self.train, self.valid = Part(*(t[rest] for t in seen)), Part(*(t[held_out] for t in seen))

    def _read(self, config: DataConfig, split: str) -> Part:
        data = open_split(config, split)
        found = preprocessing(config, data)
        data.transform = eval_transform(found)
        self.classes, self.size = len(data.classes), found.input_size
        batches = list(make_loader(data, config, training=False))
        images = torch.cat([batch.images for batch in batches])
        return Part(images, torch.cat([batch.labels for batch in batches]))

    def model(self, kind: str, width: int, depth: int) -> nn.Module:
        """Return the ViT, on a grid of 4 x 4 patches."""
        channels, *size = self.size
        vit = VisionTransformer(
            img_size=size, patch_size=size[0] // 4, in_chans=channels, num_classes=self.classes,
            embed_dim=width, depth=depth, num_heads=width // 32,
        )  # fmt: skip
        for block in vit.blocks:
            block.mlp = MLPS[kind](width, 3 * width)
        return vit

    def measure(self, model: nn.Module, part: Part) -> float:
        """Return the share of wrong classes in percent."""
        wrong = [model(x).argmax(1) != y for x, y in batches_of(part)]
        return 100 * torch.cat(wrong).float().mean().item()


class Text:
    """A Llama on bytes: of 100 equal pieces of a text, 10 choose, 10 test, and the others train."""

    error = "bits per byte"

    def __init__(self, options: argparse.Namespace) -> None:
        files: list[Path] = []
        for path in options.text:
            files += sorted(path.rglob("*.txt")) if path.is_dir() else [path]
        text = b"\n".join(file.read_bytes() for file in files)
        if len(text) < 1000 * CONTEXT:
            raise InputError(f"the text has {len(text):,} bytes: give at least {1000 * CONTEXT:,}")
        pieces = torch.frombuffer(bytearray(text), dtype=torch.uint8).tensor_split(100)
        parts = ([i for i in range(100) if i % 10 > 1], range(0, 100, 10), range(1, 100, 10))
        self.train, self.valid, self.test = (
            self._windows(torch.cat([pieces[i] for i in part])) for part in parts
        )

    def _windows(self, text: Tensor) -> Part:
        windows = text.unfold(0, CONTEXT + 1, CONTEXT)
        return Part(windows[:, :-1], windows[:, 1:])

    def model(self, kind: str, width: int, depth: int) -> nn.Module:
        """Return the Llama."""
        try:
            from transformers import LlamaConfig, LlamaForCausalLM
        except ImportError:
            extra = "kolmogorov-arnold-transformer[examples]"
            raise InputError(f'--text needs transformers: pip install "{extra}"') from None

        class Logits(LlamaForCausalLM):
            def forward(self, x: Tensor) -> Tensor:
                return super().forward(input_ids=x.long()).logits.transpose(1, 2)

        model = Logits(LlamaConfig(
            vocab_size=256, hidden_size=width, intermediate_size=width, num_hidden_layers=depth,
            num_attention_heads=width // 32, max_position_embeddings=CONTEXT,
        ))  # fmt: skip
        for layer in model.model.layers:
            layer.mlp = MLPS[kind](width, 3 * width)
        return model

    def measure(self, model: nn.Module, part: Part) -> float:
        """Return the mean bits of a byte, over at most 256 windows that are evenly spaced."""
        chosen = torch.linspace(0, len(part.x) - 1, min(256, len(part.x))).long()
        few = Part(part.x[chosen], part.y[chosen])
        nats = [
            functional.cross_entropy(model(x), y.long(), reduction="none")
            for x, y in batches_of(few)
        ]
        return torch.cat(nats).mean().item() / math.log(2)


def batches_of(part: Part) -> list[tuple[Tensor, Tensor]]:
    """Return batches of up to 64."""
    return list(zip(part.x.split(64), part.y.split(64), strict=True))


def run(
    task: Images | Text, options: argparse.Namespace, kind: str, rate: float, seed: int
) -> nn.Module:
    """Train a model with AdamW, warm-up in a tenth of the steps and linear decay."""
    torch.manual_seed(seed)
    model = task.model(kind, options.width, options.depth)
    optimizer = torch.optim.AdamW(kat.param_groups(model, rate, weight_decay=0.1))
    torch.manual_seed(seed)  # the same batches for all kinds, whose weights draw differently
    for step in range(options.steps):
        chosen = torch.randint(len(task.train.y), (options.batch,))
        loss = functional.cross_entropy(model(task.train.x[chosen]), task.train.y[chosen].long())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate * min(10 * (step + 1) / options.steps, 1 - step / options.steps)
        optimizer.step()
    return model.eval()


@torch.no_grad()
def measured(task: Images | Text, model: nn.Module, part: Part) -> float:
    """Return the error on a part; infinite if training diverged."""
    error = task.measure(model, part)
    return error if math.isfinite(error) else math.inf


def main() -> None:
    """Tune and test each kind, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add: Any = parser.add_argument
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument(
        "--images", help="a dataset as 'kat train --data' names it, e.g. folder:photos"
    )
    data.add_argument("--text", nargs="+", type=Path, help="text files, or folders of *.txt")
    add("--mlps", nargs="+", choices=MLPS, default=[*MLPS], help="the first is the reference")
    add("--rates", nargs="+", type=float, default=[1e-3, 2e-3, 4e-3])
    add("--seeds", nargs="+", type=int, default=[1, 2, 3], help="of the tests; seed 0 chooses")
    add("--steps", type=int, default=1000)
    add("--batch", type=int, default=32)
    add("--width", type=int, default=96, help="a multiple of 32")
    add("--depth", type=int, default=4)
    add("--size", type=int, help="side of the images in pixels, a multiple of 4")
    options = parser.parse_args()
    task = Images(options) if options.images else Text(options)
    rows: list[tuple[Any, ...]] = []
    tests: dict[str, list[float]] = {}
    for kind in options.mlps:
        valid = {}
        for rate in options.rates:
            valid[rate] = measured(task, run(task, options, kind, rate, 0), task.valid)
            print(f"{kind}, rate {rate:g}: {valid[rate]:.4g} on validation data", flush=True)
        best = min(valid, key=valid.__getitem__)
        for seed in options.seeds:
            tests.setdefault(kind, []).append(
                measured(task, run(task, options, kind, best, seed), task.test)
            )
            print(f"{kind}, seed {seed}: {tests[kind][-1]:.4g}", flush=True)
        pairs = zip(tests[kind], tests[options.mlps[0]], strict=True)
        change = Estimate.of([100 * (own / other - 1) for own, other in pairs])
        rows.append(
            (kind, f"{best:g}", Estimate.of(tests[kind]).text(3), change.text(1, sign=True))
        )
    print_table(("MLP", "rate", task.error, f"from {options.mlps[0]}, %"), rows)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
