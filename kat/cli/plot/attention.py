"""``kat plot attention``: where a model looks, on images.

Draws what the class token of a Vision Transformer attends to (or its patches on average, if the
model averages them): attention rollout, and the mean over the heads of each block, over the image
as the model sees it. The images are files, or a few of the run's own validation images.

examples:
  kat plot attention runs/digits
  kat plot attention runs/digits --block 3 --images 6      the heads of the last of four blocks
  kat plot attention runs/mine cat.jpg dog.jpg --out attention.svg
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from kat.analysis.figures.attention import draw_attention, true_classes, with_predictions
from kat.analysis.figures.base import save_figure
from kat.analysis.inspect.attention import attention_maps, check_attention
from kat.analysis.inspect.predictions import images_of_run
from kat.cli.options.parser import Parser, refuse_options
from kat.data import DeviceTransform, decode, eval_transform
from kat.deploy import open_model
from kat.models import ModelRecord
from kat.settings import Count
from kat.text import say


def main(arguments: list[str]) -> None:
    """Runs the model, draws."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.files:
        refuse_options(parser, options, ["data", "images"], "beside image files")
    model, record = open_model(options.run, options.image_size)
    check_attention(model)
    if options.files:
        pictures, names = _read(options.files, record)
    else:
        images = images_of_run(options.run, model, record, options.images, options.data)
        pictures, names = true_classes(list(images.batches()), images.images.classes)
    maps = attention_maps(model, DeviceTransform(record.mean, record.std)(pictures))
    titles = with_predictions(names, maps.logits, record.classes)
    save_figure(draw_attention(pictures, titles, maps, options.block), options.out)
    say(options.out)


def make_parser() -> Parser:
    """The parser of ``kat plot attention``."""
    parser = Parser(__doc__, "RUN [IMAGE...]")
    add = parser.add
    parser.add_common("run", "--data")
    add("files", nargs="*", metavar="IMAGE", help="image files")
    what = "validation images, if there are no files"
    add("--images", type=Count, default=4, metavar="N", help=what)
    add("--block", type=int, metavar="N", help="draw each head of this block, counted from 0")
    add("--image-size", type=Count, metavar="N", help="side of the square that the model sees")
    parser.add_picture("attention.png")
    return parser


def _read(paths: list[str], record: ModelRecord) -> tuple[Tensor, list[str]]:
    """The images of files, as the model takes them but for normalization, and their names."""
    transform = eval_transform(record, normalize=False)
    pictures = torch.stack([transform(decode(path)) for path in paths])
    return pictures, [Path(path).name for path in paths]
