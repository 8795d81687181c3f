"""``kat predict``: the most likely classes of images."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from kat.cli.parsing import Parser, run_command
from kat.data import UnreadableImage, decode, eval_transform
from kat.errors import InputError
from kat.files import check_target, write_text
from kat.models import load_model


def main(arguments: list[str]) -> int:
    """Parses the arguments, classifies, prints a table."""
    return run_command(lambda: _main(arguments))


def _main(arguments: list[str]) -> None:
    parsed = make_parser().parse_args(arguments)
    if parsed.json:
        check_target(Path(parsed.json))
    answers = predict(parsed.images, Path(parsed.checkpoint), parsed.top)
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
            " most likely classes of each with their probabilities."
        ),
    )
    parser.add_argument("images", nargs="+", help="image files of any format that Pillow reads")
    parser.add_argument(
        "--checkpoint",
        required=True,
        help="a run's folder, a model's folder, a .ckpt file, or a file of an official KAT",
    )
    parser.add_argument("--top", type=int, default=5, help="how many classes to print")
    parser.add_argument("--json", type=str | None, help="write the answers to this file")
    return parser


@torch.inference_mode()
def predict(paths: list[str], checkpoint: Path, top: int = 5) -> list[dict[str, Any]]:
    """The ``top`` most likely classes of each image, or the error that it cannot be read.

    Args:
        paths: image files.
        checkpoint: see :func:`kat.models.load_model`.
        top: how many classes; at most as many as the model knows.

    Returns:
        For each image {"image": path, "top": [{"class": name, "probability": p}, ...]}, or
        {"image": path, "error": message}.
    """
    if top < 1:
        raise InputError(f"--top must be at least 1, got {top}")
    model, record = load_model(checkpoint)
    transform = eval_transform(record)
    mode = "L" if record.input_size[0] == 1 else "RGB"
    answers: list[dict[str, Any]] = []
    for path in paths:
        try:
            image = decode(path).convert(mode)
        except UnreadableImage as error:
            answers.append({"image": path, "error": f"cannot be read: {error.reason}"})
            continue
        probabilities = model(transform(image)[None]).softmax(-1)[0]
        best = probabilities.topk(min(top, len(record.classes)))
        answers.append(
            {
                "image": path,
                "top": [
                    {"class": record.classes[index], "probability": probability}
                    for probability, index in zip(*map(torch.Tensor.tolist, best), strict=True)
                ],
            }
        )
    return answers


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
