"""``kat predict``: the most likely classes of images."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from kat.cli.parsing import Parser, run_command
from kat.data import UnreadableImage, decode, eval_transform
from kat.deploy import open_model
from kat.errors import InputError
from kat.files import check_target, write_text
from kat.models import ModelRecord

Batches = Sequence[Sequence[str]]


def main(arguments: list[str]) -> int:
    """Parses the arguments, classifies, prints a table."""
    return run_command(lambda: _main(arguments))


def _main(arguments: list[str]) -> None:
    parsed = make_parser().parse_args(arguments)
    if parsed.json:
        check_target(Path(parsed.json))
    answers = predict(
        parsed.images,
        Path(parsed.checkpoint),
        parsed.top,
        batch_size=parsed.batch_size,
        image_size=parsed.image_size,
        track=_progress if parsed.progress else iter,
    )
    if parsed.json:
        write_text(Path(parsed.json), json.dumps(answers, indent=2) + "\n")
    _print(answers)
    unreadable = [answer["image"] for answer in answers if "error" in answer]
    if unreadable:
        raise InputError(f"{len(unreadable)} of {len(answers)} images cannot be read")


def make_parser() -> Parser:
    """The parser of ``kat predict``."""
    parser = Parser(
        prog="kat predict",
        description=(
            "Classifies images with the preprocessing stored beside the weights, and prints the"
            " most likely classes of each with their probabilities. Examples:"
            " 'kat predict cat.jpg dog.jpg --checkpoint runs/mine';"
            " 'kat predict photos/*.jpg --checkpoint mine.onnx --json answers.json'."
        ),
    )
    parser.add_argument("images", nargs="+", help="image files of any format that Pillow reads")
    parser.add_argument(
        "--checkpoint",
        required=True,
        help="a run's folder, a model's folder, a .ckpt file, an exported .pt2 or .onnx file, or a"
        " file of an official KAT",
    )
    parser.add_argument("--top", type=int, default=5, help="how many classes to print")
    parser.add_argument("--batch_size", type=int, default=32, help="images at a time")
    parser.add_argument(
        "--image_size",
        type=int | None,
        help="side of the square that the model sees, where it takes other sizes than its own",
    )
    parser.add_argument("--json", type=str | None, help="write the answers to this file")
    parser.add_argument("--progress", type=bool, default=True, help="show a progress bar")
    return parser


@torch.inference_mode()
def predict(
    paths: Sequence[str],
    checkpoint: Path,
    top: int = 5,
    *,
    batch_size: int = 32,
    image_size: int | None = None,
    track: Callable[[Batches], Iterable[Sequence[str]]] = iter,
) -> list[dict[str, Any]]:
    """The ``top`` most likely classes of each image, or the error that it cannot be read.

    Args:
        paths: image files.
        checkpoint: see :func:`kat.deploy.open_model`.
        top: how many classes; at most as many as the model knows.
        batch_size: images that the model sees at a time.
        image_size: side in pixels, where the model takes other sizes than its own.
        track: goes through the batches, and may show how far it is.

    Returns:
        For each image {"image": path, "top": [{"class": name, "probability": p}, ...]}, or
        {"image": path, "error": message}.

    Raises:
        InputError: a number out of range, no model, one without a head, one that is not for this
            image size, or logits that are not finite.
    """
    for name, value in (("top", top), ("batch_size", batch_size), ("image_size", image_size)):
        if value is not None and value < 1:
            raise InputError(f"--{name} must be at least 1, got {value}")
    model, record = open_model(checkpoint, image_size)
    if not record.classes:
        raise InputError(f"the model of {checkpoint} has no head, hence no classes to predict")
    batches = [paths[start : start + batch_size] for start in range(0, len(paths), batch_size)]
    transform = eval_transform(record)
    answers: list[dict[str, Any]] = []
    for batch in track(batches):
        images = [_read(path, record) for path in batch]
        readable = [transform(image) for image in images if isinstance(image, Image.Image)]
        logits = model(torch.stack(readable)) if readable else torch.empty(0, len(record.classes))
        if not logits.isfinite().all():
            raise InputError(
                f"the logits that {checkpoint} gives are not finite: its weights are damaged or its"
                " training has diverged"
            )
        guesses = iter(_guesses(logits, record, top))
        answers += [
            {"image": path, "error": image}
            if isinstance(image, str)
            else {"image": path, "top": next(guesses)}
            for path, image in zip(batch, images, strict=True)
        ]
    return answers


def _read(path: str, record: ModelRecord) -> Image.Image | str:
    """The image, or why it cannot be read."""
    try:
        return decode(path).convert("L" if record.input_size[0] == 1 else "RGB")
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


def _progress(batches: Batches) -> Iterable[Sequence[str]]:
    console = Console(file=sys.stderr)
    hidden = not console.is_terminal
    return track(batches, "classifying", console=console, transient=True, disable=hidden)


def _print(answers: list[dict[str, Any]]) -> None:
    table = Table(box=None, header_style="bold")
    for name in ("image", "class", "probability"):
        table.add_column(name, overflow="fold")
    for answer in answers:
        if "error" in answer:
            table.add_row(answer["image"], answer["error"])
        for rank, guess in enumerate(answer.get("top", [])):
            name = "" if rank else answer["image"]
            table.add_row(name, guess["class"], f"{guess['probability']:.4f}")
    Console(file=sys.stdout, markup=False, highlight=False).print(table)
