"""``kat predict``: predict what is in images: classes, objects, or the class of each pixel.

Uses the preprocessing stored beside the weights. For a classifier, prints the most likely classes
with their probabilities; for a detector, all objects; for a segmentation model, the share of pixels
of each class. For more than 10 images, prints only the first of these for each; --csv and --json
write all. --out draws objects and pixels.

examples:
  kat predict photos --checkpoint runs/mine --csv predictions.csv        a folder, with those in it
  kat predict cat.jpg dog.jpg --checkpoint mine.onnx
  kat predict street.jpg --checkpoint runs/detector --out pictures
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kat
from kat.cli.options.parser import MODEL, Parser, refuse_options, tracked, write_json
from kat.cli.options.task_options import add_task_options, own_options
from kat.data.folders import image_files
from kat.errors import Failed, InputError
from kat.files import replacing, short_names
from kat.tables import columns_of, print_table, write_table
from kat.text import say_all, warn

if TYPE_CHECKING:
    from kat.training.tasks.declared import Declared

_CLASSES = 5
"""The most classes of an image's pixels that are printed; the files have all."""
_MANY = 10
"""Images beyond which only the first class or object of each is printed."""


def main(arguments: list[str]) -> None:
    """Predict, and print a table."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    from kat.training.tasks.registry import TASKS  # imports torch

    files = image_files(options.images)
    model = kat.load(
        options.checkpoint,
        image_size=options.image_size,
        trust=options.trust,
        device=options.device,
    )
    task = TASKS[model.task]
    own = own_options(parser, options, model.task, "predict_images")
    if not task.draws:
        refuse_options(parser, options, ("out",), f"on a model for {task.name}")
    shown = tracked(files, "predicting", options)
    predictions = model.predict_each(shown, draw=options.out is not None, exif=options.exif, **own)
    names = picture_names(files)
    results: list[dict[str, Any]] = []
    for one in predictions:
        found = {"error": one.error} if one.error else {task.entries: one.entries}
        results.append({"image": one.image, **found})
        for ending, picture in one.pictures.items():
            path = options.out / f"{names[one.image]}{ending}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as partial:
                picture.save(partial, format="PNG")
    top = own.get("top", _CLASSES) if task.ranked else None
    _print(results, task, 1 if len(results) > _MANY else top)
    write_json(options, results)
    if options.csv:
        rows = list(_rows(results, task))
        write_table(options.csv, columns_of(rows, ("image", "rank", "class")), rows)
    if bad := [result for result in results if "error" in result]:
        line = f"{len(bad)} of {len(results)} images cannot be read, first {bad[0]['image']}"
        if options.strict:
            raise Failed(line)
        if len(bad) == len(results):
            raise InputError(line)
        warn(f"kat: {line}")


def make_parser() -> Parser:
    """Return the parser of ``kat predict``."""
    parser = Parser(__doc__, "IMAGE... --checkpoint RUN")
    add = parser.add
    add("images", nargs="+", metavar="IMAGE", help="image files, and folders of them")
    add(
        "--checkpoint",
        type=Path,
        required=True,
        metavar="RUN",
        help=f"{MODEL}, an exported .onnx file, with --trust a .pt2 file, or hf-hub:OWNER/NAME",
    )
    parser.add_common("--trust", "--device", "--image-size", "--exif", "--progress")
    add("--strict", action="store_true", help="exit with 1 if an image cannot be read")
    parser.add_folder(
        "--out",
        (
            "draw into this folder, new or empty: of a detector boxes and masks on the image, of a"
            " segmentation model the classes over it, and NAME_mask.png with each pixel's class"
        ),
        new=True,
    )
    add_task_options(parser, "predict_images")
    parser.add_json("the predictions")
    parser.add_csv("one row per class or object")
    return parser


def picture_names(paths: Sequence[str]) -> dict[str, str]:
    """Return names for the pictures of files: the stems, if no picture or mask is another's."""
    files = list(map(Path, dict.fromkeys(paths)))
    names = [file.stem for file in files]
    written = {*names, *(f"{name}_mask" for name in names)}
    distinct = names if len(written) == 2 * len(names) else short_names(files)
    return dict(zip(dict.fromkeys(paths), distinct, strict=True))


def _rows(results: Sequence[Mapping[str, Any]], task: Declared) -> Iterator[dict[str, Any]]:
    """Yield the rows of the table: one for each entry, or one for an image without any."""
    for result in results:
        image = {name: value for name, value in result.items() if name != task.entries}
        entries = result.get(task.entries, [])
        for rank, entry in enumerate(entries, 1):
            sides = zip(("x1", "y1", "x2", "y2"), entry.get("box", ()), strict=False)
            kept = {name: v for name, v in entry.items() if not isinstance(v, list | dict)}
            yield {**image, "rank": rank, **kept, **dict(sides)}
        if not entries:
            yield image


def _print(results: Sequence[Mapping[str, Any]], task: Declared, top: int | None) -> None:
    """Print a table of the first entries of each image, or of all; then the unreadable images."""
    rows = []
    for result in results:
        name = result["image"]
        if result.get(task.entries) == []:
            rows.append((name, "nothing found", ""))
        for entry in result.get(task.entries, [])[:top]:
            rows.append((name, entry["class"], f"{entry[task.entry_figure]:.4f}"))
            name = ""  # once for each image
    if rows:
        print_table(("image", "class", task.entry_figure), rows)
    say_all(f"{result['image']} {result['error']}" for result in results if "error" in result)
