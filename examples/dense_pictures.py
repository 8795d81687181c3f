"""Draws what a detector and a segmentation model find in validation images, beside what is there.

    python examples/dense_pictures.py runs/items_detection runs/items_segmentation --out found.png

Both runs must be of one set that examples/items.py has made. A column is an image: the annotated
objects, those found, the annotated classes of the pixels, those found.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.patches import Patch
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from kat.cli.errors import run_command
from kat.data import DataConfig, open_split
from kat.data.dense.drawing import caption_factor, draw_mask, draw_objects, palette
from kat.files import check_target, replacing
from kat.models import load_model
from kat.models.dense import SlidingWindowConfig
from kat.training import read_settings
from kat.training.tasks.detection.task import find_objects
from kat.training.tasks.evaluation import Subject
from kat.training.tasks.segmentation.task import find_classes

ROWS = ("annotated objects", "found", "annotated classes", "found")


def main() -> None:
    """Draws the picture that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("detection", type=Path, help="the folder of a detector's run")
    parser.add_argument("segmentation", type=Path, help="the folder of a segmentation model's run")
    parser.add_argument("--images", nargs="+", type=int, default=[0, 1, 2, 3], help="their indices")
    parser.add_argument("--threshold", type=float, default=0.5, help="lowest score drawn")
    parser.add_argument("--out", type=Path, default=Path("found.png"))
    options = parser.parse_args()
    check_target(options.out, (".png",))
    objects = detection_rows(options.detection, options.images, options.threshold)
    classes, names = segmentation_rows(options.segmentation, options.images)
    draw([*objects, *classes], names, options.out)


def validation_images(run: Path):
    """The validation split that a run has seen."""
    data = read_settings(run)["data"]
    return open_split(DataConfig(name=data["name"]), "val")


def detection_rows(run: Path, images: list[int], threshold: float) -> list[list[Tensor]]:
    """Pictures of the annotated objects of each image, and of those that the run's model finds."""
    data = validation_images(run)
    model, record = load_model(run)
    rows: list[list[Tensor]] = [[], []]
    for index in images:
        image, there = data[index]
        found = find_objects(Subject(model, record), image, threshold)
        scores = [f" {score:.2f}" for score in found["scores"].tolist()]
        captions = ([""] * len(there["labels"]), scores)
        for row, objects, ends in zip(rows, (there, found), captions, strict=True):
            labels, pixels = objects["labels"], pil_to_tensor(image)
            named = [data.classes[k] + end for k, end in zip(labels.tolist(), ends, strict=True)]
            shown = {"boxes": objects["boxes"]}
            if "masks" in objects:
                shown["masks"] = objects["masks"].bool()
            row.append(draw_objects(pixels, shown, named, caption_factor(pixels)))
    return rows


def segmentation_rows(run: Path, images: list[int]) -> tuple[list[list[Tensor]], list[str]]:
    """Pictures of the annotated classes, and of those that the run's model finds; their names."""
    data = validation_images(run)
    model, record = load_model(run)
    rows: list[list[Tensor]] = [[], []]
    for index in images:
        image, there = data[index]
        found = find_classes(Subject(model, record), image, SlidingWindowConfig())
        for row, mask in zip(rows, (torch.as_tensor(np.asarray(there)), found), strict=True):
            row.append(draw_mask(pil_to_tensor(image), mask, len(data.classes)))
    return rows, data.classes


def draw(rows: list[list[Tensor]], names: list[str], path: Path) -> None:
    """Writes the pictures as a PNG file, with a legend of the classes of pixels."""
    columns = len(rows[0])
    figure, axes = plt.subplots(
        len(rows), columns, figsize=(2.6 * columns, 2.6 * len(rows) + 0.6), squeeze=False
    )
    for row, pictures, title in zip(axes, rows, ROWS, strict=True):
        row[0].set_ylabel(title)
        for ax, picture in zip(row, pictures, strict=True):
            ax.imshow(picture.permute(1, 2, 0))
            ax.set(xticks=[], yticks=[])
    colors = np.array(palette(len(names))) / 255
    patches = [Patch(color=color, label=name) for color, name in zip(colors, names, strict=True)]
    figure.legend(handles=patches, loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    with replacing(path) as partial:
        figure.savefig(partial, dpi=80, format="png")


if __name__ == "__main__":
    raise SystemExit(run_command(main))
