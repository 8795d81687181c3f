"""``kat eval``: evaluate checkpoints on a dataset: accuracy and calibration, COCO's AP, or mIoU.

Evaluates on the validation split: classifiers by top-1, top-5, loss, calibration, and recall,
precision and F1 of each class; detectors by COCO's average precision; segmentation models by mIoU
and accuracies. The dataset is the run's own, unless --data names another. A run with
data.validate_on=holdout did not use the validation split of its data, so the split is then a test
set. The preprocessing is stored beside the weights; options change it. A warning says if the
accuracy of a classifier may be due to guessing.

RUN is a run directory (its best checkpoint), a model folder, a .ckpt file, digits (a model that
comes with kat), an exported .onnx file, with --trust an exported .pt2 file, hf-hub:OWNER/NAME, or a
file of an official KAT; or a folder that contains any of these: each is evaluated.

examples:
  kat eval runs/mine --out report
  kat eval runs/mine/*.ckpt --csv table.csv
  kat eval mine.onnx --data folder:/data/flowers --json metrics.json
  kat eval runs/mine --calibrate      # and lower its calibration error
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kat
from kat.cli.options.parser import Parser, refuse_options, write_json
from kat.cli.options.task_options import add_task_options, own_options
from kat.data.folders import left_out
from kat.errors import InputError
from kat.files import short_names
from kat.settings import Count
from kat.tables import print_table, write_table
from kat.text import say, say_all
from kat.training.tasks.declared import Metric

_AS_STORED = (
    "image_size", "limit", "precision", "crop_pct", "interpolation", "mean", "std", "real_labels",
)  # fmt: skip
"""Options that evaluate another model than the stored one, or on other images or labels."""
Row = dict[str, Any]
"""The evaluation of a checkpoint, or the ``error`` that prevented it."""


def main(arguments: list[str]) -> None:
    """Evaluate each checkpoint, and print lines or a table."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    from kat.api import data_to_evaluate  # imports torch
    from kat.training.evaluation.run_data import find_checkpoints, take_one_split

    paths = find_checkpoints(options.runs)
    several = paths != options.runs or len(paths) > 1
    if options.calibrate:
        refuse_options(parser, options, _AS_STORED, "beside --calibrate")
        if several:
            raise InputError("--calibrate takes one RUN")
    names = short_names(paths) if several else [""]
    rows: dict[Path, Row] = {path: {"checkpoint": str(path)} for path in paths}

    @contextmanager
    def row_of(path: Path) -> Iterator[Row]:
        """Yield the row of a checkpoint, which takes an error if there are several."""
        try:
            yield rows[path]
        except InputError as error:
            if not several:
                raise
            rows[path]["error"] = " ".join(str(error).split())

    named = {name: value for name, value in vars(options.data).items() if value is not None}
    data: dict[Path, dict[str, Any]] = {}
    for path in paths:
        with row_of(path):
            data[path], _ = data_to_evaluate(path, named, test=not options.calibrate)
    take_one_split(list(data.values()))
    for path, name in zip(paths, names, strict=True):
        if path in data:
            with row_of(path) as row:
                folder = options.out / name if options.out else None
                row |= _evaluate(path, data[path], folder, parser, options)
    if not options.quiet:
        notes: list[str] = []
        for row in rows.values():
            say_all(left_out(row.get("skipped_files", {})))
            notes += row.get("notes", [])
        say_all(dict.fromkeys(notes))
    _print(list(rows.values()), several)
    write_json(options, list(rows.values()) if several else rows[paths[0]])
    if options.csv:
        write_table(options.csv, _columns(rows.values()), rows.values())
    failed = [str(path) for path, row in rows.items() if "error" in row]
    if failed:
        raise InputError(
            f"{len(failed)} of {len(rows)} checkpoints cannot be evaluated, first {failed[0]}"
        )


def make_parser() -> Parser:
    """Return the parser of ``kat eval``."""
    parser = Parser(__doc__, "RUN...")
    add = parser.add
    add("runs", nargs="+", type=Path, metavar="RUN", help="models, see above")
    parser.add_common("--trust", "--device", "--image-size", "--progress")
    parser.add_data()
    parser.add_folder("--out", "write tables and figures to this folder")
    parser.add_csv("one row per model")
    parser.add_json("all results")
    add("--limit", type=Count, metavar="N", help="evaluate at most this many images")
    add(
        "--precision",
        choices=("32-true", "bf16-mixed", "16-mixed"),
        default="32-true",
        help="precision of the forward pass",
    )
    add(
        "--calibrate",
        action="store_true",
        help="lower the calibration error of the classifier in RUN: divide its logits by a"
        " temperature that is fitted to these images",
    )
    add_task_options(parser, "evaluate")
    return parser


def _evaluate(
    path: Path, data: Mapping[str, Any], folder: Path | None, parser: Parser, options: Namespace
) -> Row:
    """Evaluate a checkpoint, and write tables and figures."""
    model = kat.load(
        path, image_size=options.image_size, trust=options.trust, device=options.device
    )
    own = own_options(parser, options, model.task, "evaluate")
    common = {"device": options.device, "progress": options.progress}
    if options.calibrate:
        found = kat.calibrate(path, data, **common)
    else:
        found = kat.evaluate(
            model, data, precision=options.precision, limit=options.limit, **common, **own
        )
    row = {"checkpoint": str(path), "data": data["name"], "task": model.task, **found.to_dict()}
    row["lines"] = found.lines
    if folder is not None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        from kat.analysis.reports.evaluation import write_evaluation  # imports matplotlib

        write_evaluation(found, folder, row)
    return row


def _columns(rows: Iterable[Row]) -> list[str]:
    """Return the columns of the tasks of the checkpoints, then common ones."""
    from kat.training.tasks.registry import TASKS

    tasks = {row["task"] for row in rows if "task" in row}
    columns = ["checkpoint", "data"]
    for name, task in TASKS.items():
        if name in tasks or not tasks:
            columns += [metric.name for metric in task.eval_metrics]
    columns += ["images", "skipped", "images_per_second", "error"]
    return list(dict.fromkeys(columns))


def _print(rows: Sequence[Row], several: bool) -> None:
    if several:
        _print_table(rows)
    else:
        say_all(rows[0]["lines"])
    for row in rows:
        if row.get("warning"):
            subject = f"{row['checkpoint']}: " if several else ""
            say(f"warning: {subject}{row['warning']}")


def _print_table(rows: Sequence[Row]) -> None:
    from kat.training.tasks.registry import TASKS

    done = [row for row in rows if "task" in row]
    shown: dict[str, Metric] = {}
    for name in TASKS:
        if name in [row["task"] for row in done]:
            shown |= {metric.name: metric for metric in TASKS[name].eval_metrics if metric.in_table}
    lines = []
    for row in done:
        cells = [row["checkpoint"], row["data"]]
        for metric in shown.values():
            value = row.get(metric.name)
            cells.append("-" if value is None else f"{value:{metric.format}}")
        lines.append([*cells, row["images"], f"{row['images_per_second']:.0f}"])
    if lines:
        labels = (metric.label for metric in shown.values())
        print_table(("checkpoint", "data", *labels, "images", "images/s"), lines)
    say_all(f"{row['checkpoint']}: {row['error']}" for row in rows if "error" in row)
