"""``kat predict``: predict what is in images: classes, objects, or the class of each pixel.

Uses the preprocessing stored beside the weights. Prints a classifier's most likely classes with
their probabilities, a detector's objects, or the share of each class among a segmentation model's
pixels; --out draws objects and pixels.

examples:
  kat predict cat.jpg dog.jpg --checkpoint runs/mine
  kat predict photos/*.jpg --checkpoint mine.onnx --json predictions.json
  kat predict street.jpg --checkpoint runs/detector --out pictures
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from kat.analysis.figures.dense import caption_factor, draw_mask, draw_objects
from kat.cli.parsing import MODEL, Parser, add_sliding_window, refuse_options, tracked
from kat.data import UnreadableImage, decode, eval_transform
from kat.data.decoding import in_channels
from kat.deploy import open_model
from kat.errors import InputError
from kat.files import replacing, write_text
from kat.models import ModelRecord
from kat.models.dense import SegmentConfig, check_segment, task_of
from kat.settings import Count, Probability
from kat.tables import print_table
from kat.training.evaluation.dense_prediction import find_classes, find_objects
from kat.training.tasks.detection import encode_mask

_SEGMENT = [field.name for field in fields(SegmentConfig)]
_UNUSED = {
    "classification": [*_SEGMENT, "threshold", "out"],
    "detection": [*_SEGMENT, "batch_size"],
    "segmentation": ["threshold", "batch_size"],
}
"""By task the options that it has no use for."""
_FIGURE = {"top": "probability", "objects": "score", "classes": "share"}
"""What an answer lists, by task, and the figure of each entry."""


def main(arguments: list[str]) -> None:
    """Predicts, prints a table."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    model, record = open_model(options.checkpoint, options.image_size)
    if not record.classes:
        raise InputError(f"the model of {options.checkpoint} has no head, so it predicts no class")
    task = task_of(model)
    refuse_options(parser, options, _UNUSED[task], f"on a model for {task}")
    predict = _classify if task == "classification" else _see
    answers = predict(model, record, options)
    if options.json:
        write_text(options.json, json.dumps(answers, indent=2) + "\n")
    _print(answers, options.top)
    unreadable = [answer["image"] for answer in answers if "error" in answer]
    if unreadable:
        raise InputError(f"{len(unreadable)} of {len(answers)} images cannot be read")


def make_parser() -> Parser:
    """The parser of ``kat predict``."""
    parser = Parser(__doc__, "IMAGE... --checkpoint RUN")
    add = parser.add
    add("images", nargs="+", metavar="IMAGE", help="image files")
    add(
        "--checkpoint",
        type=Path,
        required=True,
        metavar="RUN",
        help=f"{MODEL}, or an exported .pt2 or .onnx file",
    )
    add("--top", type=Count, default=5, metavar="N", help="number of classes to print")
    add("--batch-size", type=Count, default=32, metavar="N", help="images at a time (classifiers)")
    add(
        "--image-size",
        type=Count,
        metavar="N",
        help="side of the square that the model sees, in pixels; of a segmentation model the"
        " shorter side of the image, of a detector the longer one (default: the model's)",
    )
    add(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="draw into this folder: of a detector boxes and masks on the image, of a segmentation"
        " model the classes over it, and NAME_mask.png with the index of each pixel's class",
    )
    add(
        "--threshold",
        type=Probability,
        default=0.5,
        help="lowest score of an object that counts (detectors)",
    )
    add_sliding_window(parser)
    parser.add_json("the predictions")
    parser.add_progress()
    return parser


@torch.inference_mode()
def _classify(model: nn.Module, record: ModelRecord, options: Namespace) -> list[dict[str, Any]]:
    """The most likely classes of each image, or the error that it cannot be read.

    For each image {"image": path, "top": [{"class": name, "probability": p}, ...]}, or
    {"image": path, "error": message}.
    """
    paths, size = options.images, options.batch_size
    batches = [paths[start : start + size] for start in range(0, len(paths), size)]
    transform = eval_transform(record)
    answers: list[dict[str, Any]] = []
    for batch in tracked(batches, "predicting", options):
        images = [_read(path, record) for path in batch]
        readable = [transform(image) for image in images if isinstance(image, Image.Image)]
        logits = model(torch.stack(readable)) if readable else torch.empty(0, len(record.classes))
        if not logits.isfinite().all():
            raise InputError(
                f"the logits of {options.checkpoint} are not finite: its weights are damaged, or"
                " its training has diverged"
            )
        guesses = iter(_guesses(logits, record, options.top))
        answers += [
            {"image": path, "error": image}
            if isinstance(image, str)
            else {"image": path, "top": next(guesses)}
            for path, image in zip(batch, images, strict=True)
        ]
    return answers


def _see(model: nn.Module, record: ModelRecord, options: Namespace) -> list[dict[str, Any]]:
    """What a detector or a segmentation model says of each image, drawn if there is a folder."""
    how = SegmentConfig(**{name: getattr(options, name) for name in _SEGMENT})
    check_segment(how)
    out = options.out
    pictures = _picture_names(options.images)
    if out is not None:
        _check_pictures(out, pictures)
        out.mkdir(parents=True, exist_ok=True)
    answers: list[dict[str, Any]] = []
    for path in tracked(options.images, "predicting", options):
        image = _read(path, record)
        if isinstance(image, str):
            answers.append({"image": path, "error": image})
        elif task_of(model) == "detection":
            found, picture = _objects(model, record, image, options.threshold)
            answers.append({"image": path, "objects": found})
            _save(picture, out, pictures[path])
        else:
            mask = find_classes(model, record, image, how)
            answers.append({"image": path, "classes": _shares(mask, record)})
            picture = draw_mask(_pixels(image), mask, len(record.classes))
            _save(picture, out, pictures[path])
            _save(mask.to(torch.uint8)[None], out, f"{pictures[path]}_mask")
    return answers


def _picture_names(paths: Sequence[str]) -> dict[str, str]:
    """A name for the picture of each file: its own, with a number where two are the same."""
    names: dict[str, str] = {}
    for path in paths:
        stem, number = Path(path).stem, 1
        name = stem
        while name in names.values():
            number += 1
            name = f"{stem}_{number}"
        names[path] = name
    return names


def _check_pictures(out: Path, pictures: Mapping[str, str]) -> None:
    """Checks that no picture would take the place of an image."""
    given = {Path(path).resolve() for path in pictures}
    for name in pictures.values():
        for target in (out / f"{name}.png", out / f"{name}_mask.png"):
            if target.resolve() in given:
                raise InputError(f"--out {out} would overwrite {target}: give another folder")


def _objects(
    model: nn.Module, record: ModelRecord, image: Image.Image, threshold: float
) -> tuple[list[dict[str, Any]], Tensor]:
    """The objects of an image, and a picture of them."""
    found = find_objects(model, record, image, threshold)
    names = [record.classes[label] for label in found["labels"].tolist()]
    scores = found["scores"].tolist()
    objects = [
        {"class": name, "score": score, "box": box, "segmentation": encode_mask(mask)}
        for name, score, box, mask in zip(
            names, scores, found["boxes"].tolist(), found["masks"], strict=True
        )
    ]
    captions = [f"{name} {score:.2f}" for name, score in zip(names, scores, strict=True)]
    boxes, labels, masks = found["boxes"], found["labels"], found["masks"]
    pixels, count = _pixels(image), len(record.classes)
    factor = caption_factor(pixels)
    return objects, draw_objects(pixels, boxes, labels, masks, captions, count, factor)


def _shares(mask: Tensor, record: ModelRecord) -> list[dict[str, Any]]:
    """The share of the pixels of each class that an image has, the largest first."""
    counts = torch.bincount(mask.flatten(), minlength=len(record.classes))
    order = counts.argsort(descending=True, stable=True).tolist()
    total = mask.numel()
    return [
        {"class": record.classes[index], "share": int(counts[index]) / total}
        for index in order
        if counts[index]
    ]


def _pixels(image: Image.Image) -> Tensor:
    return pil_to_tensor(image.convert("RGB"))


def _save(picture: Tensor, out: Path | None, name: str) -> None:
    if out is not None:
        with replacing(out / f"{name}.png") as partial:
            to_pil_image(picture).save(partial)


def _read(path: str, record: ModelRecord) -> Image.Image | str:
    """The image, or why it cannot be read."""
    try:
        return in_channels(decode(path), record.input_size[0])
    except UnreadableImage as error:
        return f"cannot be read: {error.reason}"


def _guesses(logits: Tensor, record: ModelRecord, top: int) -> list[list[dict[str, Any]]]:
    """The most likely classes of each image of a batch, the likeliest first."""
    best = logits.softmax(-1).topk(min(top, len(record.classes)))
    return [
        [
            {"class": record.classes[index], "probability": probability}
            for probability, index in zip(*row, strict=True)
        ]
        for row in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]


def _print(answers: list[dict[str, Any]], top: int) -> None:
    """A table of the first entries of each answer."""
    kind = next((name for answer in answers for name in _FIGURE if name in answer), "top")
    rows = []
    for answer in answers:
        entries = answer.get(kind, [])
        if not entries:
            rows.append((answer["image"], answer.get("error", "nothing found"), ""))
        for rank, entry in enumerate(entries[:top]):
            name = "" if rank else answer["image"]
            rows.append((name, entry["class"], f"{entry[_FIGURE[kind]]:.4f}"))
    print_table(("image", "class", _FIGURE[kind]), rows)
