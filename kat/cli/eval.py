"""``kat eval``: evaluate checkpoints on a dataset: accuracy and calibration, COCO's AP, or mIoU.

Evaluates on the validation split: classifiers by top-1, top-5, loss, calibration and the accuracy
of each class; detectors by COCO's average precision; segmentation models by mIoU and accuracies.
The dataset is that of the run, unless --data names another. A run with data.validate_on=holdout is
evaluated on the validation split of its data, which is then a test. The preprocessing is the one
stored beside the weights, unless options change it. If a model is near chance level, it prints
possible causes.

RUN is a run directory (its best checkpoint), a model folder, a .ckpt file, an exported .onnx file,
with --trust an exported .pt2 file, or a file of an official KAT; or another folder, for each of
these that lies in it.

examples:
  kat eval runs/mine --out report
  kat eval runs/mine/*.ckpt --csv table.csv
  kat eval mine.onnx --data folder:/data/flowers --json metrics.json
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from kat.cli.options.parser import Parser, given
from kat.cli.options.task_options import add_task_options, task_options
from kat.data import DataConfig
from kat.deploy import open_model
from kat.deploy.formats import FORMATS
from kat.errors import InputError
from kat.files import check_exists, short_names, write_text
from kat.models import ModelRecord
from kat.models.dense import task_of
from kat.settings import Count
from kat.tables import print_table, write_table
from kat.text import say
from kat.training import EvalConfig, evaluate
from kat.training.evaluation.checkpoints import find_checkpoints
from kat.training.evaluation.run_data import data_to_test, take_one_split
from kat.training.tasks.registry import TASKS

Row = dict[str, Any]
"""The evaluation of a checkpoint; it holds an ``error`` alone where that failed."""

_EVAL = ("device", "precision", "limit", "image_size", "progress")


def main(arguments: list[str]) -> None:
    """Evaluates each checkpoint, and prints lines or a table."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    paths = find_checkpoints(options.runs)
    several = paths != options.runs or len(paths) > 1
    folders: list[Path | None] = [None] * len(paths)
    if options.out:
        names = short_names(paths) if several else [""]
        folders = [options.out / name for name in names]
    found = [_settings(path, options) for path in paths]
    take_one_split([one[0] for one in found if not isinstance(one, InputError)])
    rows = []
    for path, settings, folder in zip(paths, found, folders, strict=True):
        try:
            if isinstance(settings, InputError):
                raise settings
            rows.append(_evaluate(path, *settings, parser, options, folder))
        except InputError as error:
            if not several:
                raise
            rows.append({"checkpoint": str(path), "error": " ".join(str(error).split())})
    if options.json:
        write_text(options.json, json.dumps(rows if several else rows[0], indent=2) + "\n")
    if options.csv:
        columns = _columns(rows)
        write_table(options.csv, columns, ([row.get(name) for name in columns] for row in rows))
    _print(rows, several)
    failed = [row for row in rows if "error" in row]
    if failed:
        raise InputError(
            f"{len(failed)} of {len(rows)} checkpoints cannot be evaluated, first"
            f" {failed[0]['checkpoint']}"
        )


def make_parser() -> Parser:
    """The parser of ``kat eval``."""
    parser = Parser(__doc__, "RUN...")
    add = parser.add
    add("runs", nargs="+", type=Path, metavar="RUN", help="models, see above")
    parser.add_trust()
    parser.add_data()
    parser.add_folder("--out", "write tables and figures to this folder")
    parser.add_csv("one row per model")
    parser.add_json("all results")
    add("--limit", type=Count, metavar="N", help="evaluate at most this many images")
    parser.add_device()
    add(
        "--precision",
        choices=["32-true", "bf16-mixed", "16-mixed"],
        default="32-true",
        help="floating-point format of the forward pass",
    )
    parser.add_image_size()
    add_task_options(parser, "EvalOptions")
    parser.add_progress()
    return parser


def _settings(path: Path, options: Namespace) -> tuple[dict[str, Any], str] | InputError:
    """The data to evaluate a checkpoint on, its run's by default, and a remark; or an error."""
    named = given(options.data)
    try:
        check_exists(path)
        is_exported = path.suffix[1:] in FORMATS and path.is_file()
        exported = FORMATS[path.suffix[1:]].read_record(path).run if is_exported else None
        settings, remark = data_to_test(path, named, exported)
        settings |= named
        if "name" not in settings:
            raise InputError(
                f"{path} does not belong to a run: name the dataset to evaluate on with --data"
            )
    except InputError as error:
        return error
    return settings, remark


def _evaluate(
    path: Path,
    settings: dict[str, Any],
    remark: str,
    parser: Parser,
    options: Namespace,
    folder: Path | None,
) -> Row:
    """Evaluates a checkpoint, and writes tables and figures."""
    data = DataConfig(**settings)
    model, record = _open(path, options.image_size, options.trust)
    task = task_of(model)
    config = EvalConfig(**{name: getattr(options, name) for name in _EVAL})
    own = task_options(parser, options, task, "EvalOptions")
    found = evaluate(model, record, data, config, own, source=path)
    found.notes += [remark] if remark else []
    row = {"checkpoint": str(path), "data": data.name, "task": task, **found.to_dict()}
    row["lines"] = found.lines
    if folder is not None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        from kat.analysis.reports.evaluation import write_evaluation  # imports matplotlib

        write_evaluation(found, folder, row)
    return row


def _open(path: Path, image_size: int | None, trust: bool) -> tuple[nn.Module, ModelRecord]:
    """The model, for images of this size, and the record that is stored with it."""
    model, stored = open_model(path, trust=trust)
    another = stored.input_size[1:] != (image_size, image_size)
    if image_size is not None and (another or task_of(model) == "detection"):
        model, _ = open_model(path, image_size, trust=trust)
    return model, stored


def _columns(rows: Sequence[Row]) -> list[str]:
    """Those of the tasks of the checkpoints, and of all."""
    tasks = {row["task"] for row in rows if "task" in row} or set(TASKS)
    own = [m.name for name, task in TASKS.items() if name in tasks for m in task.eval_metrics]
    last = ("images", "skipped", "images_per_second", "error")
    return list(dict.fromkeys(["checkpoint", "data", *own, *last]))


def _print(rows: Sequence[Row], several: bool) -> None:
    remarks = [
        f"skipped {path}: {why}"
        for row in rows
        for path, why in row.get("skipped_files", {}).items()
    ]
    remarks += [note for row in rows for note in row.get("notes", [])]
    say(*dict.fromkeys(remarks))
    if several:
        _print_tables(rows)
    else:
        say(*rows[0]["lines"])
    for row in rows:
        if row.get("warning"):
            subject = f"{row['checkpoint']}: " if several else ""
            say(f"{subject}{row['warning']}; what was found out:")
            say(*(f"  {finding}" for finding in row["findings"]))


def _print_tables(rows: Sequence[Row]) -> None:
    """A table for each task."""
    for name, task in TASKS.items():
        shown = [metric for metric in task.eval_metrics if metric.in_table]
        columns = ("checkpoint", "data", *(m.label for m in shown), "images", "images/s")
        lines = [
            (
                row["checkpoint"],
                row["data"],
                *("-" if row.get(m.name) is None else f"{row[m.name]:{m.format}}" for m in shown),
                row["images"],
                f"{row['images_per_second']:.0f}",
            )
            for row in rows
            if row.get("task") == name
        ]
        if lines:
            print_table(columns, lines)
    say(*(f"{row['checkpoint']}: {row['error']}" for row in rows if "error" in row))
