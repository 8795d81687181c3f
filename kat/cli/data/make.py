"""``kat data make``: make a small dataset for detection and segmentation from real images.

Places images of Fashion-MNIST's items (Debian's package dataset-fashion-mnist) on textured
canvases: resized, rotated, colored, some in front of others. Boxes and masks are exact. The folder
is both a dataset for detection, coco:OUT, and one for segmentation, ade20k:OUT. The same options
give the same bytes. Items and canvases of the two splits come from different images.

examples:
  kat data make items --out items --preview items.png
  kat data make items --out small --images 200 --val-images 50 --size 64 --source digits
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from kat.cli.options.parser import Parser
from kat.data.dense.drawing import draw_preview
from kat.data.synthetic import make_items
from kat.text import say


def main(arguments: list[str]) -> None:
    """Writes the dataset."""
    options = make_parser().parse_args(arguments)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not options.progress) as bar:
        task = bar.add_task("images", total=options.images + options.val_images)
        make_items(
            options.out,
            source=options.source,
            images=options.images,
            val_images=options.val_images,
            size=options.size,
            seed=options.seed,
            tell=lambda done: bar.update(task, completed=done),
        )
    if options.preview:
        draw_preview(options.out, options.preview)
    say(
        f"{options.images} training and {options.val_images} validation images in {options.out};"
        f" --data coco:{options.out} or ade20k:{options.out}"
    )


def make_parser() -> Parser:
    """The parser of ``kat data make``."""
    parser = Parser(__doc__, "items")
    parser.add("kind", choices=["items"], help="the kind of data")
    parser.add("--out", type=Path, required=True, metavar="FOLDER", help="a new folder")
    parser.add("--source", default="fashion_mnist", help="dataset of gray images, bright on black")
    parser.add("--images", type=int, default=6000, help="images of the training split")
    parser.add("--val-images", type=int, default=500, help="images of the validation split")
    parser.add("--size", type=int, default=128, help="side of an image in pixels")
    parser.add_seed("everything that is random")
    parser.add_file("--preview", "also draw some images with their objects", (".png",))
    parser.add_progress()
    return parser
