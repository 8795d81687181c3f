"""``kat eval``: evaluate checkpoints on a data set: accuracy and calibration, COCO's AP, or mIoU.

Evaluates on the validation split: classifiers by top-1, top-5, loss, calibration and the accuracy
of each class; detectors by COCO's average precision; segmentation models by mIoU and accuracies.
The data set is the run's own unless --data names another; the preprocessing is the one stored
beside the weights unless options change it. If a model is near chance level, it prints possible
causes.

RUN is a run directory (its best checkpoint), a model folder, a .ckpt file, an exported .pt2 or
.onnx file, or a file of an official KAT; or another folder, for each of these that lies in it.

examples:
  kat eval runs/mine --out report
  kat eval runs/mine/*.ckpt --csv table.csv
  kat eval mine.onnx --data folder:/data/flowers --json metrics.json
"""

from __future__ import annotations

import json
import re
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from torch import nn

from kat.analysis import ClassificationReport, write_table
from kat.analysis.reports.dense import DenseReport
from kat.cli.parsing import Parser, add_sliding_window, given, refuse_options
from kat.data import DataConfig, open_split
from kat.deploy import open_model
from kat.errors import InputError
from kat.files import check_target, short_names, write_text
from kat.models import ModelRecord, is_model_folder
from kat.models.dense import SegmentConfig, task_of
from kat.settings import Count
from kat.tables import print_table
from kat.training import (
    EvalConfig,
    Subject,
    evaluate,
    explain,
    read_real_labels,
    real_accuracy,
    recorded_top1,
    suspicion,
    with_preprocessing,
)
from kat.training.evaluation.dense import evaluate_dense
from kat.training.evaluation.real_labels import check_real_labels
from kat.training.evaluation.run_data import data_of_run
from kat.training.run_directory import SETTINGS

_ENDINGS = (".ckpt", ".safetensors", ".pth", ".pth.tar", ".pt", ".pt2", ".onnx")
_OF_TASK = {
    "classification": ("top1", "top5", "loss", "ece", "real_top1", "real_top5"),
    "detection": tuple(
        f"{kind}_{figure}"
        for kind in ("box", "mask")
        for figure in ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar")
    ),
    "segmentation": ("miou", "pixel_accuracy", "class_accuracy", "loss"),
}
"""The columns of a task in the CSV file."""
_IN_TABLE = {
    "classification": (("top1", "top-1 %"), ("top5", "top-5 %"), ("loss", "loss"), ("ece", "ECE")),
    "detection": (("box_ap", "box AP"), ("box_ap50", "AP50"), ("mask_ap", "mask AP")),
    "segmentation": (("miou", "mIoU"), ("pixel_accuracy", "pixels %"), ("loss", "loss")),
}
"""What is printed of several checkpoints, and its heading."""
_SHOWN = 3
"""How many of the worst and best classes, and of the pairs, are printed."""

_SEGMENT = [field.name for field in fields(SegmentConfig)]
_EVAL = [field.name for field in fields(EvalConfig) if field.name != "keep_logits"]

_PREPARED = ("crop_pct", "interpolation", "mean", "std", "real_labels")
_UNUSED = {
    "classification": _SEGMENT,
    "detection": [*_SEGMENT, *_PREPARED],
    "segmentation": _PREPARED,
}
"""By task the options that it has no use for."""

Row = dict[str, Any]
"""What is found of a checkpoint; it holds an ``error`` alone where it cannot be evaluated."""


def main(arguments: list[str]) -> None:
    """Evaluates, prints a line or a table."""
    options = make_parser().parse_args(arguments)
    paths = find_checkpoints(options.runs)
    several = paths != options.runs or len(paths) > 1
    if options.out and not options.out.is_dir():
        check_target(options.out)
        if options.out.exists():
            raise InputError(f"--out {options.out} is a file; give the name of a folder")
    rows = _evaluate_all(paths, options) if several else [_evaluate(paths[0], options, options.out)]
    if options.json:
        content = rows if several else rows[0]
        write_text(options.json, json.dumps(content, indent=2) + "\n")
    if options.csv:
        columns = _columns(rows)
        cells = ([row.get(name) for name in columns] for row in rows)
        write_table(options.csv, columns, cells)
    _print(rows, several)
    failed = [row for row in rows if "error" in row]
    if failed:
        raise InputError(
            f"{len(failed)} of {len(rows)} checkpoints cannot be evaluated, first"
            f" {failed[0]['checkpoint']}"
        )


def _columns(rows: Sequence[Row]) -> list[str]:
    """Those of the tasks that the checkpoints are for, and of all."""
    tasks = {row["task"] for row in rows if "task" in row} or {"classification"}
    own = [name for task, names in _OF_TASK.items() if task in tasks for name in names]
    last = ("images", "skipped", "images_per_second", "error")
    return list(dict.fromkeys(["checkpoint", "data", *own, *last]))


def make_parser() -> Parser:
    """The parser of ``kat eval``."""
    parser = Parser(__doc__, "RUN...")
    add = parser.add
    add("runs", nargs="+", type=Path, metavar="RUN", help="models, see above")
    parser.add_data()
    add("--out", type=Path, metavar="FOLDER", help="write tables and figures to this folder")
    parser.add_csv("a row a model")
    parser.add_json("all results")
    add("--limit", type=Count, metavar="N", help="evaluate at most this many images")
    add("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda, cuda:1, mps")
    add(
        "--precision",
        choices=["32-true", "bf16-mixed", "16-mixed"],
        default="32-true",
        help="floating-point format of the forward pass",
    )
    add(
        "--real-labels",
        metavar="FILE",
        help="also evaluate on ImageNet's reassessed labels: the path of real.json, or 'timm' for"
        " the copy that timm ships",
    )
    add_sliding_window(parser)
    add(
        "--image-size",
        type=Count,
        metavar="N",
        help="side of the square that the model sees, in pixels; of a segmentation model the"
        " shorter side of the image, of a detector the longer one (default: the model's)",
    )
    add("--crop-pct", type=float, help="share that the central crop keeps (default: the model's)")
    add(
        "--interpolation",
        choices=["bilinear", "bicubic", "nearest", "lanczos"],
        help="how images are resized (default: the model's)",
    )
    for name in ("mean", "std"):
        what = f"{name} of each channel, e.g. [0.5,0.5,0.5] (default: the model's)"
        add(f"--{name}", type=list[float], metavar="LIST", help=what)
    parser.add_progress()
    return parser


def find_checkpoints(given: Sequence[Path]) -> list[Path]:
    """The stored models that paths stand for, each once, in natural order within a folder.

    A run's or a model's folder stands for itself; another folder for the files of weights and the
    folders of models directly in it, or for itself where there are none.
    """
    found = [inner for path in given for inner in _inside(path)]
    return list(dict.fromkeys(found))


def _inside(path: Path) -> list[Path]:
    if not path.is_dir() or is_model_folder(path) or (path / SETTINGS).is_file():
        return [path]
    inner = [p for p in path.iterdir() if is_model_folder(p) or _is_weights(p)]
    return sorted(inner, key=_natural) or [path]


def _is_weights(path: Path) -> bool:
    return path.is_file() and path.name.endswith(_ENDINGS) and not path.name.startswith(".")


def _natural(path: Path) -> list[tuple[int, str]]:
    """A sort key by which epoch=9 comes before epoch=10."""
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _evaluate_all(paths: Sequence[Path], options: Namespace) -> list[Row]:
    """A row a checkpoint; one that cannot be evaluated does not stop the others."""
    rows = []
    for path, label in zip(paths, short_names(paths), strict=True):
        try:
            rows.append(_evaluate(path, options, options.out and options.out / label))
        except InputError as error:
            rows.append({"checkpoint": str(path), "error": " ".join(str(error).split())})
    return rows


def _evaluate(path: Path, options: Namespace, report: Path | None) -> Row:
    """Evaluates a checkpoint, and writes its report if there is to be one."""
    settings = given(options.data)
    settings = {**data_of_run(path, named="name" in settings), **settings}
    if "name" not in settings:
        raise InputError(f"{path} belongs to no run: name the data set to evaluate on with --data")
    data = DataConfig(**settings)
    model, stored = _open(path, options.image_size)
    task = task_of(model)
    refuse_options(make_parser(), options, _UNUSED[task], f"on a model for {task}")
    if task != "classification":
        return _evaluate_dense(path, model, stored, data, options, report)
    real_labels = read_real_labels(options.real_labels) if options.real_labels else None
    if real_labels is not None:
        check_real_labels(open_split(data, "val"), real_labels)
    record, overridden = with_preprocessing(
        stored,
        input_size=options.image_size and (stored.input_size[0], *[options.image_size] * 2),
        **{name: getattr(options, name) for name in ("crop_pct", "interpolation", "mean", "std")},
    )
    config = EvalConfig(**{name: getattr(options, name) for name in _EVAL})
    evaluation = evaluate(model, record, data, config, source=str(path))
    answered = ClassificationReport(evaluation.answers, evaluation.classes)
    row: Row = {"checkpoint": str(path), "data": data.name, "task": "classification"}
    row |= evaluation.metrics()
    if real_labels is not None:
        row |= real_accuracy(evaluation, real_labels)
    doubt = suspicion(evaluation, recorded_top1(path, data.name))
    subject = Subject(path, model, stored, overridden)
    row |= {
        "notes": [*evaluation.match.notes, *_differences(overridden)],
        "suspicion": doubt,
        "findings": explain(subject, evaluation) if doubt else [],
        "skipped_files": evaluation.skipped_files(),
    }
    row |= answered.to_dict()
    if report is not None:
        report.parent.mkdir(exist_ok=True)
        answered.write(report, row)
    return row


def _evaluate_dense(
    path: Path,
    model: nn.Module,
    record: ModelRecord,
    data: DataConfig,
    options: Namespace,
    report: Path | None,
) -> Row:
    """Evaluates a detector or a segmentation model, and writes its report."""
    config = EvalConfig(**{name: getattr(options, name) for name in _EVAL})
    how = SegmentConfig(**{name: getattr(options, name) for name in _SEGMENT})
    if options.image_size is not None:
        record = replace(record, input_size=(record.input_size[0], *[options.image_size] * 2))
    found = DenseReport(evaluate_dense(model, record, data, config, how, source=str(path)))
    row = {"checkpoint": str(path), "data": data.name, "task": task_of(model), **found.to_dict()}
    row["lines"] = [f"{data.name}: {found.lines()[0]}", *found.lines()[1:]]
    if report is not None:
        report.parent.mkdir(exist_ok=True)
        found.write(report, row)
    return row


def _open(path: Path, image_size: int | None) -> tuple[nn.Module, ModelRecord]:
    """The model, for images of this size, and the record that is stored with it."""
    model, stored = open_model(path)
    another = stored.input_size[1:] != (image_size, image_size)
    if image_size is not None and (another or task_of(model) == "detection"):
        model, _ = open_model(path, image_size)
    return model, stored


def _differences(overridden: dict[str, tuple[Any, Any]]) -> list[str]:
    return [
        f"note: {name} is {given}, where the checkpoint's record says {stored}"
        for name, (stored, given) in overridden.items()
    ]


def _print(rows: Sequence[Row], several: bool) -> None:
    remarks = [f"skipped {path}: {why}" for row in rows for path, why in _skipped(row)]
    remarks += [note for row in rows for note in row.get("notes", [])]
    sys.stdout.writelines(f"{line}\n" for line in dict.fromkeys(remarks))
    if several:
        _print_table(rows)
    else:
        sys.stdout.writelines(f"{line}\n" for line in rows[0].get("lines") or _lines(rows[0]))
    for row in rows:
        if row.get("suspicion"):
            subject = f"{row['checkpoint']}: " if several else ""
            sys.stdout.write(f"{subject}{row['suspicion']}; what can be found out:\n")
            sys.stdout.writelines(f"  {finding}\n" for finding in row["findings"])


def _skipped(row: Row) -> list[tuple[str, str]]:
    return list(row.get("skipped_files", {}).items())


def _print_table(rows: Sequence[Row]) -> None:
    """A table for each task."""
    for task, shown in _IN_TABLE.items():
        evaluated = [row for row in rows if row.get("task") == task]
        columns = ("checkpoint", "data", *(heading for _, heading in shown), "images", "images/s")
        lines = [
            (
                row["checkpoint"],
                row["data"],
                *(_figure(row[name], name) for name, _ in shown),
                row["images"],
                f"{row['images_per_second']:.0f}",
            )
            for row in evaluated
        ]
        if lines:
            print_table(columns, lines)
    failed = [row for row in rows if "error" in row]
    sys.stdout.writelines(f"{row['checkpoint']}: {row['error']}\n" for row in failed)


def _figure(value: float | None, name: str) -> str:
    return "-" if value is None else f"{value:.{4 if name in ('loss', 'ece') else 2}f}"


def _lines(row: Row) -> list[str]:
    """What is printed of a classifier."""
    lines = [
        f"{row['data']}: top-1 {row['top1']:.2f} %, top-5 {row['top5']:.2f} %,"
        f" loss {row['loss']:.4f} on {row['images']} images ({row['skipped']} files skipped)",
        f"{row['images_per_second']:.0f} images/s; ECE {row['ece']:.4f}, mean confidence"
        f" {100 * row['mean_confidence']:.2f} %",
    ]
    if row.get("real_top1") is not None:
        lines.append(
            f"real labels: top-1 {row['real_top1']:.2f} %, top-5 {row['real_top5']:.2f} % on"
            f" {row['real_images']} images"
        )
    seen = [entry for entry in row["per_class"] if entry["images"]]
    ranked = sorted(seen, key=lambda entry: entry["accuracy"])
    lines.append(f"worst classes: {_classes(ranked[:_SHOWN])}")
    lines.append(f"best classes: {_classes(ranked[_SHOWN:][::-1][:_SHOWN])}")
    pairs = [
        f"{pair['true']} taken for {pair['predicted']} ({pair['count']} of {pair['images']})"
        for pair in row["most_confused"][:_SHOWN]
    ]
    lines.append(f"most confused: {', '.join(pairs)}")
    return [line for line in lines if not line.endswith(": ")]


def _classes(entries: Sequence[dict[str, Any]]) -> str:
    return ", ".join(f"{entry['class']} {entry['accuracy']:.1f} %" for entry in entries)
