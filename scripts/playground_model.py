"""Trains the small KAT that classifies a drawn digit on the documentation's page.

python scripts/playground_model.py build/playground/model

It trains on scikit-learn's digits, warped, in 100 seconds on one core, and writes

    digit.onnx         image (1, 1, 8, 8) -> logits, and the input of each rational
    digit.json         the rationals, the normalization, examples, the accuracy
    digit.safetensors  the weights, for tests

The same machine and packages give the same weights.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import timm
import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

import kat
from kat.data.sources.small import open_digits
from kat.deploy import freeze
from kat.deploy.freezing import FrozenRational
from kat.files import replacing, write_text

SIZE = 8
"""Rows and columns of an image."""
WIDEST = 6.5
"""Columns that the ink fills at most; it always fills all rows, as in the data set."""
FAINTEST = 0.5
"""Ink from which a pixel counts as drawn."""
STEPS = 1500
BATCH = 128
STROKES = {
    0: ["51 32 24 26 38 59 78 86 84 72 51"],
    1: ["51 59", "33 51 59", "32 51 59,39 79"],
    2: ["23 32 51 72 74 56 29 79", "22 51 73 29 79"],
    3: ["22 51 72 73 54 74 77 59 28", "21 71 54 75 77 59 28"],
    4: ["69 61 26 86", "31 25 75,61 69"],
    5: ["71 31 25 54 75 77 59 28"],
    6: ["61 33 26 28 59 78 76 55 27", "72 51 33 26 38 59 77 75 55 27"],
    7: ["21 81 49", "21 81 49,36 76", "23 21 81 49"],
    8: ["55 34 32 51 72 74 55 27 38 59 78 76 55"],
    9: ["73 55 34 32 51 72 73 79", "74 55 34 32 51 72 75 78 59 38"],
}
"""Usual ways to draw a digit, which the data set has too few of: lines through points "xy"."""
_CANVAS = 40
_POINTS = 0.001, 0.999
"""The quantiles of a layer's inputs between which its curves are drawn."""


def main() -> None:
    """Trains, writes, prints the accuracy."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, metavar="FOLDER")
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    accuracy = make(options.out, options.steps)
    print(f"{accuracy:.2%} of the validation images are classified correctly")


def make(out: Path, steps: int = STEPS) -> float:
    """Trains the model and writes its three files.

    Args:
        out: the folder, made if it is missing.
        steps: optimizer steps.

    Returns:
        The accuracy on the validation split.
    """
    out.mkdir(parents=True, exist_ok=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # another number would give other bits
    try:
        model = _train(new_model(), *read_split("train"), steps)
        images, labels = read_split("val")
        accuracy = (model(normalized(images)).argmax(1) == labels).double().mean().item()
        _write(model, images, labels, accuracy, out)
    finally:
        torch.set_num_threads(threads)
    return accuracy


def new_model() -> nn.Module:
    """The model with the initial weights of a fixed seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return timm.create_model(
            "kat_micro_patch2_8", in_chans=1, embed_dim=48, depth=2, num_classes=10
        )


def read_split(split: str) -> tuple[Tensor, Tensor]:
    """The images (n, 8, 8), ink in [0, 1], and the labels (n,) of a split of the digits."""
    pixels, labels = open_digits(split).source.listing()
    return torch.tensor(pixels) / 255.0, torch.tensor(labels)


def normalized(images: Tensor) -> Tensor:
    """Ink (n, 8, 8) in [0, 1] as the model's input (n, 1, 8, 8)."""
    digits = open_digits("train")
    return (images[:, None] - digits.mean[0]) / digits.std[0]


def to_digits(ink: Tensor) -> Tensor:
    """Drawings as images like those of the data set: cropped, scaled to all rows, centered.

    Each pixel is the mean of the ink over its area, rounded to sixteenths.

    Args:
        ink: (n, height, width) in [0, 1], each with a pixel of at least :data:`FAINTEST`.

    Returns:
        (n, 8, 8), in [0, 1].
    """
    top, bottom = _extent(ink, dim=2)
    left, right = _extent(ink, dim=1)
    scale = torch.minimum((right - left) * SIZE / (bottom - top), torch.tensor(WIDEST))
    width = (right - left) / scale * SIZE
    middle = (left + right) / 2
    rows = _overlap(top, bottom, ink.shape[1])
    columns = _overlap(middle - width / 2, middle + width / 2, ink.shape[2])
    return (rows @ ink @ columns.mT * 16).round() / 16


def _extent(ink: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """The first pixel that is drawn, and the one after the last, along the other dimension."""
    drawn = (ink >= FAINTEST).any(dim).to(ink.dtype)
    return drawn.argmax(1).to(ink), drawn.shape[1] - drawn.flip(1).argmax(1).to(ink)


def _overlap(low: Tensor, high: Tensor, count: int) -> Tensor:
    """The share of each of 8 equal parts of [low, high] that each pixel covers: (n, 8, count)."""
    edges = low[:, None] + (high - low)[:, None] * torch.arange(SIZE + 1) / SIZE
    pixels = torch.arange(count)
    start = torch.maximum(edges[:, :-1, None], pixels)
    end = torch.minimum(edges[:, 1:, None], pixels + 1)
    return (end - start).clamp(min=0) * (SIZE / (high - low))[:, None, None]


def _train(model: nn.Module, images: Tensor, labels: Tensor, steps: int) -> nn.Module:
    """AdamW with a one-cycle schedule; the model in evaluation mode."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(kat.param_groups(model, 3e-3, weight_decay=0.05), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps, pct_start=0.1)
    for batch, wanted in _batches(images, labels, steps, generator):
        loss = functional.cross_entropy(model(normalized(batch)), wanted, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval().requires_grad_(False)


def _batches(
    images: Tensor, labels: Tensor, steps: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """A quarter of each batch as it is, a quarter of strokes, the others warped."""
    strokes, stroke_labels = _strokes()
    large = functional.interpolate(images[:, None], (_CANVAS, _CANVAS), mode="bilinear")[:, 0]
    for _ in range(steps):
        own = torch.randint(len(images), (3, BATCH // 4), generator=generator)
        drawn = torch.randint(len(strokes), (BATCH // 4,), generator=generator)
        warped = _warped(torch.cat([large[own[1:].flatten()], strokes[drawn]]), generator)
        yield (
            torch.cat([images[own[0]], warped]),
            torch.cat([labels[own.flatten()], stroke_labels[drawn]]),
        )


def _strokes() -> tuple[Tensor, Tensor]:
    """The drawings of :data:`STROKES` and their digits."""
    drawings, labels = [], []
    for digit, shapes in STROKES.items():
        for shape in shapes:
            image = Image.new("L", (_CANVAS, _CANVAS))
            for line in shape.split(","):
                points = [(4 * int(x) + 2, 4 * int(y) + 2) for x, y in line.split()]
                ImageDraw.Draw(image).line(points, fill=255, width=5, joint="curve")
            drawings.append(torch.tensor(np.asarray(image) / 255.0, dtype=torch.float32))
            labels.append(digit)
    return torch.stack(drawings), torch.tensor(labels)


def _warped(ink: Tensor, generator: torch.Generator) -> Tensor:
    """Drawings (n, 40, 40) tilted, stretched, bent, thick or thin, as images of the data set."""
    count = len(ink)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    angle, shear, stretch = 0.15 * normal(count), 0.2 * normal(count), 0.2 * normal(count)
    rows = [[angle.cos() * stretch.exp(), shear - angle.sin()], [angle.sin(), angle.cos()]]
    matrix = torch.zeros(count, 2, 3)
    matrix[:, :, :2] = 1.4 * torch.stack([torch.stack(row, 1) for row in rows], 1)
    grid = functional.affine_grid(matrix, [count, 1, _CANVAS, _CANVAS], align_corners=False)
    bend = functional.interpolate(0.12 * normal(count, 2, 4, 4), (_CANVAS, _CANVAS), mode="bicubic")
    grid = grid + bend.movedim(1, -1)
    ink = functional.grid_sample(ink[:, None], grid, align_corners=False)[:, 0]
    threshold = torch.empty(count, 1, 1).uniform_(0.25, 0.6, generator=generator)
    ink = torch.sigmoid(20 * (ink / ink.amax((1, 2), keepdim=True) - threshold))
    thick = functional.max_pool2d(ink, 3, stride=1, padding=1)
    return to_digits(torch.where(torch.rand(count, 1, 1, generator=generator) < 0.3, thick, ink))


class _WithInputs(nn.Module):
    """The logits of a frozen model, and the inputs of its rationals by group, (groups, k)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.rationals = [m for m in model.modules() if isinstance(m, FrozenRational)]

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        inputs: list[Tensor] = []

        def note(layer: nn.Module, given: tuple[Tensor]) -> None:
            groups = len(layer.denominator)
            tokens = given[0].flatten(0, -2).unflatten(-1, (groups, -1))
            inputs.append(tokens.movedim(1, 0).flatten(1))

        hooks = [layer.register_forward_pre_hook(note) for layer in self.rationals]
        logits = self.model(image)
        for hook in hooks:
            hook.remove()
        return logits, *inputs


def _write(model: nn.Module, images: Tensor, labels: Tensor, accuracy: float, out: Path) -> None:
    watched = _WithInputs(freeze(model)).eval()
    layers = {n: m for n, m in model.named_modules() if isinstance(m, kat.GroupRational)}
    exported: Any = torch.onnx.export(
        watched,
        (normalized(images[:1]),),
        dynamo=True,
        opset_version=18,
        external_data=False,
        verbose=False,
        input_names=["image"],
        output_names=["logits", *layers],
    )
    with replacing(out / "digit.onnx") as path:
        onnx.save(_slim(exported.model_proto), path)
    with replacing(out / "digit.safetensors") as path:
        save_file(model.state_dict(), path)
    inputs = watched(normalized(images))[1:]
    digits = open_digits("val")
    content = {
        "accuracy": accuracy,
        "mean": digits.mean[0],
        "std": digits.std[0],
        "layers": [
            {"name": name, **_described(layer, x)}
            for (name, layer), x in zip(layers.items(), inputs, strict=True)
        ],
        "examples": [
            (16 * images[labels == digit][0]).round().int().flatten().tolist()
            for digit in range(10)
        ],
    }
    write_text(out / "digit.json", json.dumps(content, allow_nan=False) + "\n")


def _described(layer: kat.GroupRational, x: Tensor) -> dict[str, Any]:
    """The form and the coefficients of each group, and the range of the layer's inputs."""
    groups = layer.num_groups
    low, high = np.quantile(x.numpy(), _POINTS)
    return {
        "form": layer.form,
        "numerator": layer.weight_numerator.expand(groups, -1).tolist(),
        "denominator": layer.weight_denominator.expand(groups, -1).tolist(),
        "low": float(np.floor(min(low, -1.0))),
        "high": float(np.ceil(max(high, 1.0))),
    }


def _slim(proto: Any) -> Any:
    """The model without the notes of the exporter."""
    graph = proto.graph
    graph.ClearField("value_info")
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
    for node in graph.node:
        node.ClearField("doc_string")
    return proto


if __name__ == "__main__":
    main()
