"""``kat data make``: data of detection and segmentation that can be had anywhere."""

from __future__ import annotations

import sys
from argparse import RawDescriptionHelpFormatter
from pathlib import Path

from jsonargparse import DefaultHelpFormatter
from rich.console import Console
from rich.progress import Progress

from kat.cli.parsing import Parser, run_command
from kat.data.dense.drawing import draw_preview
from kat.data.synthetic import make_items
from kat.errors import unknown
from kat.files import check_target

KINDS = ("items",)
_DESCRIPTION = """\
Makes images of Fashion-MNIST's items (Debian's package dataset-fashion-mnist) on textured canvases:
resized, turned, coloured, some before others. Boxes and masks are exact. The folder is both a data
set for detection, coco:OUT, and one for segmentation, ade20k:OUT. The same options give the same
bytes. Items and canvases of the two splits are of different images.

examples:
  kat data make items --out items --preview items.png
  kat data make items --out small --images 200 --val_images 50 --size 64 --source digits"""


class _Formatter(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Leaves the lines of the description as they are."""


def main(arguments: list[str]) -> int:
    """Parses the arguments and writes the data set."""
    return run_command(lambda: _main(arguments))


def _main(arguments: list[str]) -> None:
    options = make_parser().parse_args(arguments)
    if options.kind not in KINDS:
        raise unknown("kind of data to make", options.kind, KINDS)
    out = Path(options.out)
    if options.preview:
        check_target(Path(options.preview), (".png",))
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not options.progress) as bar:
        task = bar.add_task("images", total=options.images + options.val_images)
        make_items(
            out,
            source=options.source,
            images=options.images,
            val_images=options.val_images,
            size=options.size,
            seed=options.seed,
            tell=lambda done: bar.update(task, completed=done),
        )
    if options.preview:
        draw_preview(out, Path(options.preview))
    sys.stdout.write(
        f"{options.images} training and {options.val_images} validation images in {out};"
        f" --data.name coco:{out} or ade20k:{out}\n"
    )


def make_parser() -> Parser:
    """The parser of ``kat data make``."""
    parser = Parser(prog="kat data make", description=_DESCRIPTION, formatter_class=_Formatter)
    parser.add_argument("kind", type=str, help="items")
    parser.add_argument("--out", type=str, required=True, help="the folder, not there yet")
    parser.add_argument(
        "--source", type=str, default="fashion_mnist", help="grey images, bright on black"
    )
    parser.add_argument("--images", type=int, default=6000, help="in the training split")
    parser.add_argument("--val_images", type=int, default=500, help="in the validation split")
    parser.add_argument("--size", type=int, default=128, help="side of an image in pixels")
    parser.add_argument("--seed", type=int, default=0, help="of all that is random")
    parser.add_argument(
        "--preview", type=str | None, help="draw some of the images with their objects, as PNG"
    )
    parser.add_argument("--progress", type=bool, default=True, help="show a bar")
    return parser
