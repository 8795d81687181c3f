"""``kat plot attention``: where a model looks, on images."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

from kat.analysis.figures.attention import plot_attention, true_classes, with_predictions
from kat.analysis.inspect.attention import attention_maps, check_attention
from kat.analysis.inspect.images import images_of_run
from kat.cli.parsing import Formatter, Parser, run_command
from kat.data import DeviceTransform, UnreadableImage, decode, eval_transform
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
        images = images_of_run(checkpoint, model, record, parsed.images)
        pictures, names = true_classes(list(images.batches()), images.images.classes)
    maps = attention_maps(model, DeviceTransform(record.mean, record.std)(pictures))
    titles = with_predictions(names, maps.logits, record.classes)
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
