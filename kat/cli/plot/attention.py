"""``kat plot attention``: where a model looks, on images."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from kat.analysis.figures.attention import plot_attention
from kat.analysis.inspect.attention import attention_maps, check_attention
from kat.cli.parsing import Formatter, Parser, run_command
from kat.cli.plot.images import validation_images
from kat.data import Batch, DevicePreparation, UnreadableImage, decode, eval_transform
from kat.deploy import open_model
from kat.errors import InputError
from kat.files import PICTURES, check_target
from kat.models import ModelRecord

_DESCRIPTION = """\
Draws what a Vision Transformer's class token attends to (or its patches on average, where the model
averages them): attention rollout, and each block's mean over its heads, over the image as the model
saw it. The images are files, or else a few of the run's own validation images.

examples:
  kat plot attention runs/digits
  kat plot attention runs/digits --block 3 --images 6      the heads of the last of four blocks
  kat plot attention runs/mine cat.jpg dog.jpg --out attention.svg"""


def main(arguments: list[str]) -> int:
    """Parses the arguments, runs the model, draws."""
    return run_command(lambda: _main(arguments))


def _main(arguments: list[str]) -> None:
    parsed = make_parser().parse_args(arguments)
    if parsed.images < 1:
        raise InputError(f"--images must be at least 1, got {parsed.images}")
    out, checkpoint = Path(parsed.out), Path(parsed.checkpoint)
    check_target(out, PICTURES)
    model, record = open_model(checkpoint, parsed.image_size)
    check_attention(model)
    if parsed.files:
        pictures, names = _read(parsed.files, record)
    else:
        images = validation_images(checkpoint, model, record, parsed.images)
        pictures, names = with_classes(list(images.batches()), images.images.classes)
    maps = attention_maps(model, DevicePreparation(record.mean, record.std)(pictures))
    titles = with_guesses(names, maps.logits, record)
    plot_attention(pictures, titles, maps, out, parsed.block)
    sys.stdout.write(f"{out}\n")


def make_parser() -> Parser:
    """The parser of ``kat plot attention``."""
    parser = Parser(prog="kat plot attention", description=_DESCRIPTION, formatter_class=Formatter)
    add = parser.add_argument
    add("checkpoint", help="a run's folder, a model's folder, or a file of weights")
    add("files", nargs="*", default=[], metavar="IMAGE", help="image files to look at")
    add("--images", type=int, default=4, help="without files: how many validation images")
    add("--block", type=int | None, help="draw each head of this block, from 0")
    add("--image_size", type=int | None, help="side of the square that the model sees")
    add("--out", default="attention.png", help="where to draw; .png, .svg or .pdf")
    return parser


def _read(paths: list[str], record: ModelRecord) -> tuple[Tensor, list[str]]:
    """The images of files, as the model takes them but for normalisation, and their names."""
    transform = eval_transform(record, normalize=False)
    try:
        pictures = [transform(decode(path)) for path in paths]
    except UnreadableImage as error:
        raise InputError(str(error)) from None
    return torch.stack(pictures), [Path(path).name for path in paths]


def with_classes(batches: Sequence[Batch], classes: Sequence[str]) -> tuple[Tensor, list[str]]:
    """The images of batches, (N, C, H, W), and of each e.g. ``"true: cat"``."""
    labels = [label for batch in batches for label in batch.labels.tolist()]
    pictures = torch.cat([batch.images for batch in batches])
    return pictures, [f"true: {classes[label]}" for label in labels]


def with_guesses(names: list[str], logits: Tensor, record: ModelRecord) -> list[str]:
    """Each image's name with the model's guess below; without a head there is none."""
    if not record.classes:
        return names
    confidence, guesses = logits.softmax(-1).max(-1)
    return [
        f"{name}\npredicted: {record.classes[guess]} ({100 * share:.0f} %)"
        for name, guess, share in zip(names, guesses.tolist(), confidence.tolist(), strict=True)
    ]
