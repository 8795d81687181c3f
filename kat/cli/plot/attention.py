"""``kat plot attention``: where a model looks, on images."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from kat.analysis.attention import attention_maps
from kat.analysis.attention_plots import plot_attention
from kat.cli.eval import data_of_run
from kat.cli.parsing import Formatter, Parser, run_command
from kat.data import (
    DataConfig,
    DevicePreparation,
    ImageSet,
    UnreadableImage,
    decode,
    eval_transform,
    make_loader,
    open_split,
)
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
    if parsed.files:
        pictures, names = _read(parsed.files, record)
    else:
        pictures, names = _of_run(checkpoint, record, parsed.images)
    maps = attention_maps(model, DevicePreparation(record.mean, record.std)(pictures))
    titles = _titles(names, maps.logits, record)
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


def _of_run(checkpoint: Path, record: ModelRecord, count: int) -> tuple[Tensor, list[str]]:
    """So many validation images of a run, evenly spread over the split, and their true classes."""
    settings = data_of_run(checkpoint, named=False)
    if "name" not in settings:
        raise InputError(f"{checkpoint} is not a run's, so give the image files to look at")
    data = replace(DataConfig(**settings), batch_size=count, workers=0)
    images = open_split(data, "val")
    if isinstance(images, ImageSet):
        images = images.spread(count)
    images.transform = eval_transform(record, normalize=False)
    batch = next(iter(make_loader(images, data, training=False)))
    if len(batch.labels) == 0:
        raise InputError(f"none of the {count} images of {data.name} that were tried can be read")
    return batch.images, [f"true: {images.classes[label]}" for label in batch.labels.tolist()]


def _titles(names: list[str], logits: Tensor, record: ModelRecord) -> list[str]:
    """Each image's name with the model's guess below; without a head there is none."""
    if not record.classes:
        return names
    confidence, guesses = logits.softmax(-1).max(-1)
    return [
        f"{name}\npredicted: {record.classes[guess]} ({100 * share:.0f} %)"
        for name, guess, share in zip(names, guesses.tolist(), confidence.tolist(), strict=True)
    ]
