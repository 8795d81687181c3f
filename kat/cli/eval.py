"""``kat eval``: top-1, top-5 and loss of a checkpoint on a data set."""

from __future__ import annotations

import json
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from kat.cli.parsing import Parser, run_command
from kat.data import DataConfig
from kat.errors import InputError
from kat.training import evaluate
from kat.training.run import RUN_CONFIG, write_text


def main(arguments: list[str]) -> int:
    """Parses the arguments, evaluates, prints a table."""
    return run_command(lambda: _main(arguments))


def _main(arguments: list[str]) -> None:
    parser = make_parser()
    parsed = parser.parse_args(arguments)
    checkpoint = Path(parsed.checkpoint)
    data = DataConfig(**{**_data_of_run(checkpoint), **_given(parsed.data)})
    metrics: dict[str, Any] = {"checkpoint": str(checkpoint), "data": data.name}
    metrics |= evaluate(checkpoint, data, progress=parsed.progress)
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
            " stored beside the weights. The data set is the run's own unless data.name is given."
        ),
    )
    parser.add_argument(
        "--checkpoint", required=True, help="a run's folder, its model folder, or a .ckpt file"
    )
    parser.add_argument("--json", type=str | None, help="write the metrics to this file")
    parser.add_argument("--progress", type=bool, default=True, help="show a progress bar")
    for field in fields(DataConfig):
        if field.name in _DATA_OPTIONS:
            parser.add_argument(
                f"--data.{field.name}",
                type=_DATA_OPTIONS[field.name],
                default=None,
                help=f"as in 'kat train': {field.name}",
            )
    return parser


_DATA_OPTIONS: dict[str, Any] = {
    "name": str | None,
    "root": str | None,
    "val_split": str | None,
    "num_classes": int | None,
    "batch_size": int | None,
    "workers": int | None,
    "bad_images": str | None,
}


def _given(options: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(options).items() if value is not None}


def _data_of_run(checkpoint: Path) -> dict[str, Any]:
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    if not (folder / RUN_CONFIG).is_file():
        return {}
    try:
        return yaml.safe_load((folder / RUN_CONFIG).read_text())["data"]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise InputError(f"{folder / RUN_CONFIG} is damaged: {error}") from None
