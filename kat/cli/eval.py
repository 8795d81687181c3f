"""``kat eval``: evaluate checkpoints on a data set.

Evaluates models on the validation split of a data set: classifiers by top-1, top-5, loss,
calibration and accuracy by class; detectors by COCO's average precision; segmentation models by
mIoU and accuracies. The data set is the run's own unless --data names another. The preprocessing is
what is stored with the weights unless options say otherwise. For a classifier near chance, the
likely reasons are printed.

examples:
  kat eval runs/digits                                          the best weights of a run
  kat eval runs/digits --out evaluation                         with tables and figures
  kat eval runs/*/best.ckpt --csv table.csv                     several, a row each
  kat eval model.onnx --data folder:/data/flowers
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import nn

from kat.analysis.reports.evaluation import write_evaluation
from kat.cli.parsing import MODEL, Parser, given
from kat.cli.task_options import add_task_options, task_options
from kat.data import DataConfig
from kat.deploy import open_model
from kat.errors import InputError
from kat.files import check_target, write_text
from kat.models import ModelRecord
from kat.models.dense import task_of
from kat.tables import print_table, write_table
from kat.training import EvalConfig, evaluate
from kat.training.evaluation.checkpoints import find_checkpoints, short_names
from kat.training.evaluation.run_data import data_of_run
from kat.training.tasks.registry import TASKS

Row = dict[str, Any]
"""The evaluation of a checkpoint; it holds an ``error`` alone where that failed."""

_OF_THE_LIBRARY = {"keep_logits", "progress"}
"""Settings of an evaluation that are no options by these names."""


def main(arguments: list[str]) -> None:
    """Evaluates each checkpoint, and prints lines or a table."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    paths = find_checkpoints(options.runs)
    several = paths != options.runs or len(paths) > 1
    folders: list[Path | None] = [None] * len(paths)
    if options.out:
        _check_folder(options.out)
        folders = [options.out / name for name in (short_names(paths) if several else [""])]
    rows = []
    for path, folder in zip(paths, folders, strict=True):
        try:
            rows.append(_evaluate(path, parser, options, folder))
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
    parser.add(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help=f"{MODEL}, an exported .pt2 or .onnx file; or a folder of such, for every one in it",
    )
    parser.add("--out", type=Path, metavar="FOLDER", help="write tables and figures to this folder")
    parser.add_json("the results")
    parser.add_csv("a row a checkpoint")
    parser.add_progress()
    parser.add_settings(EvalConfig, skip=_OF_THE_LIBRARY)
    add_task_options(parser, "EvalOptions")
    parser.add_data()
    return parser


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        check_target(folder)
        if folder.exists():
            raise InputError(f"--out {folder} is a file; give the name of a folder")


def _evaluate(path: Path, parser: Parser, options: Namespace, folder: Path | None) -> Row:
    """Evaluates a checkpoint, on its run's data by default, and writes tables and figures."""
    settings = given(options.data)
    settings = {**data_of_run(path, named="name" in settings), **settings}
    if "name" not in settings:
        raise InputError(f"{path} belongs to no run: name the data set to evaluate on with --data")
    model, record = _open(path, options.image_size)
    task = task_of(model)
    data = DataConfig(**settings)
    names = {field.name for field in fields(EvalConfig)} - _OF_THE_LIBRARY
    config = EvalConfig(
        progress=options.progress, **{name: getattr(options, name) for name in names}
    )
    own = task_options(parser, options, task, "EvalOptions")
    found = evaluate(model, record, data, config, own, source=path)
    row = {"checkpoint": str(path), "data": data.name, "task": task, **found.to_dict()}
    row["lines"] = found.lines
    if folder is not None:
        folder.parent.mkdir(exist_ok=True)
        write_evaluation(found, folder, row)
    return row


def _open(path: Path, image_size: int | None) -> tuple[nn.Module, ModelRecord]:
    """The model, for images of this size, and the record that is stored with it."""
    if image_size is not None and image_size < 1:
        raise InputError(f"--image-size must be at least 1, got {image_size}")
    model, stored = open_model(path)
    another = stored.input_size[1:] != (image_size, image_size)
    if image_size is not None and (another or task_of(model) == "detection"):
        model, _ = open_model(path, image_size)
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
    sys.stdout.writelines(f"{line}\n" for line in dict.fromkeys(remarks))
    if several:
        _print_tables(rows)
    else:
        sys.stdout.writelines(f"{line}\n" for line in rows[0]["lines"])
    for row in rows:
        if row.get("warning"):
            subject = f"{row['checkpoint']}: " if several else ""
            sys.stdout.write(f"{subject}{row['warning']}; what was found out:\n")
            sys.stdout.writelines(f"  {finding}\n" for finding in row["findings"])


def _print_tables(rows: Sequence[Row]) -> None:
    """A table for each task."""
    for name, task in TASKS.items():
        shown = [metric for metric in task.eval_metrics if metric.in_table]
        columns = ("checkpoint", "data", *(m.label for m in shown), "images", "images/s")
        lines = [
            (
                row["checkpoint"],
                row["data"],
                *("-" if row[m.name] is None else f"{row[m.name]:{m.format}}" for m in shown),
                row["images"],
                f"{row['images_per_second']:.0f}",
            )
            for row in rows
            if row.get("task") == name
        ]
        if lines:
            print_table(columns, lines)
    sys.stdout.writelines(
        f"{row['checkpoint']}: {row['error']}\n" for row in rows if "error" in row
    )
