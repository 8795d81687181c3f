"""``kat eval``: top-1, top-5 and loss of a checkpoint on a data set."""

from __future__ import annotations

import json
import math
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

from kat.cli.parsing import Parser, run_command
from kat.data import DataConfig
from kat.deploy import open_model
from kat.errors import InputError
from kat.files import check_target, write_text
from kat.training import evaluate, read_settings
from kat.training.folder import SETTINGS


def main(arguments: list[str]) -> int:
    """Parses the arguments, evaluates, prints a line."""
    return run_command(lambda: _main(arguments))


def _main(arguments: list[str]) -> None:
    parser = make_parser()
    named = any(argument.startswith("--data.name") for argument in arguments)
    defaults = _data_of_run(_checkpoint(arguments), named)
    parser.set_defaults({f"data.{name}": value for name, value in defaults.items()})
    parsed = parser.instantiate(parser.parse_args(arguments))
    checkpoint, data = Path(parsed.checkpoint), DataConfig(**vars(parsed.data))
    if "name" not in defaults and not named:
        raise InputError(
            f"{checkpoint} is not a run's, so --data.name must say what to evaluate on"
        )
    if parsed.json:
        check_target(Path(parsed.json))
    metrics: dict[str, Any] = {"checkpoint": str(checkpoint), "data": data.name}
    metrics |= evaluate(checkpoint, data, progress=parsed.progress, load=open_model)
    if not math.isfinite(metrics["loss"]):
        raise InputError(
            f"the loss of {checkpoint} is {metrics['loss']}: its logits are not finite; its weights"
            " are damaged or its training has diverged"
        )
    if parsed.json:
        write_text(Path(parsed.json), json.dumps(metrics, indent=2) + "\n")
    sys.stdout.write(
        f"{data.name}: top-1 {metrics['top1']:.2f} %, top-5 {metrics['top5']:.2f} %,"
        f" loss {metrics['loss']:.4f} on {metrics['images']} images"
        f" ({metrics['skipped']} files skipped)\n"
    )


def make_parser() -> Parser:
    """The parser of ``kat eval``."""
    parser = Parser(
        prog="kat eval",
        description=(
            "Evaluates a checkpoint on the validation split of a data set, with the preprocessing"
            " stored beside the weights. The data set is the run's own unless others are named."
        ),
    )
    parser.add_argument(
        "--checkpoint",
        required=True,
        help="a run's folder, a model's folder, a .ckpt file, an exported .pt2 or .onnx file, or a"
        " file of an official KAT",
    )
    parser.add_argument("--json", type=str | None, help="write the metrics to this file")
    parser.add_argument("--progress", type=bool, default=True, help="show a progress bar")
    skip = {"image_size", "channels", "interpolation", "crop_pct", "mean", "std", "train_split"}
    parser.add_class_arguments(DataConfig, "data", skip=skip)
    return parser


def _checkpoint(arguments: list[str]) -> Path | None:
    for option, value in pairwise([*arguments, ""]):
        if option == "--checkpoint":
            return Path(value)
        if option.startswith("--checkpoint="):
            return Path(option.removeprefix("--checkpoint="))
    return None


def _data_of_run(checkpoint: Path | None, named: bool) -> dict[str, Any]:
    """The data settings of the run that a checkpoint is of, where there is one.

    Other data that is ``named`` has no held-out share: what has no validation split is refused.
    """
    whole = {"holdout": 0.0}
    if checkpoint is None:
        return whole
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    if not (folder / SETTINGS).is_file():
        return whole
    data = read_settings(folder).get("data")
    if not isinstance(data, dict):
        raise InputError(f"{folder / SETTINGS} does not hold the settings of a run")
    wanted = ["name", "root", "val_split", "num_classes", "batch_size", "workers", "bad_images"]
    wanted += [] if named else ["holdout"]
    return {**whole, **{name: data[name] for name in wanted if name in data}}
