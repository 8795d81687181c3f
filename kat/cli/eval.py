"""``kat eval``: accuracy, calibration and confusion of checkpoints on a data set."""

from __future__ import annotations

import json
import re
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from kat.analysis import ClassificationReport, write_table
from kat.analysis.reports.dense import DenseReport
from kat.cli.parsing import Parser, refuse_unused, run_command
from kat.data import DataConfig, open_split
from kat.deploy import open_model
from kat.errors import InputError
from kat.files import check_target, write_text
from kat.models import ModelRecord, is_model_folder
from kat.models.dense import SlidingWindowConfig, task_of
from kat.tables import print_table
from kat.training import (
    EvalConfig,
    Subject,
    evaluate,
    explain,
    read_real_labels,
    read_settings,
    real_accuracy,
    recorded_top1,
    suspicion,
    with_preprocessing,
)
from kat.training.evaluation.dense import evaluate_dense
from kat.training.evaluation.real_labels import check_real_labels
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

_SEGMENT = [field.name for field in fields(SlidingWindowConfig)]
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

_OF_RUN = (
    "name",
    "root",
    "val_split",
    "num_classes",
    "image_key",
    "label_key",
    "batch_size",
    "num_workers",
    "bad_images",
    "bad_annotations",
)
"""The settings of a run's data that its evaluation takes over."""


def main(arguments: list[str]) -> int:
    """Parses the arguments, evaluates, prints a line or a table."""
    return run_command(lambda: _main(arguments))


def _main(arguments: list[str]) -> None:
    parsed = _parse(arguments)
    paths = find_checkpoints([Path(path) for path in parsed.checkpoint])
    several = paths != [Path(path) for path in parsed.checkpoint] or len(paths) > 1
    _check_targets(parsed)
    if several:
        rows = _evaluate_all(paths, arguments)
    else:
        rows = [_evaluate_one(paths[0], arguments, _folder_of(parsed.report))]
    if parsed.json:
        content = rows if several else rows[0]
        write_text(Path(parsed.json), json.dumps(content, indent=2) + "\n")
    if parsed.csv:
        columns = _columns(rows)
        cells = ([row.get(name) for name in columns] for row in rows)
        write_table(Path(parsed.csv), columns, cells)
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
    parser = Parser(
        prog="kat eval",
        description=(
            "Evaluates checkpoints on the validation split of a data set: of classifiers top-1,"
            " top-5, loss, calibration, accuracy by class; of detectors COCO's average precision;"
            " of segmentation models mIoU and accuracies. The data set is the run's own unless"
            " another is named; the preprocessing is that stored beside the weights unless options"
            " say otherwise. Where a model scores near chance, what can be found out is printed."
            " Examples: 'kat eval --checkpoint runs/mine --report report';"
            " 'kat eval --checkpoint runs/mine/*.ckpt --csv table.csv'."
        ),
    )
    parser.add_argument(
        "--checkpoint",
        required=True,
        nargs="+",
        help="a run's folder (its best weights), a model's folder, a .ckpt file, an exported .pt2"
        " or .onnx file, a file of an official KAT; several of these; or another folder, for every"
        " one that lies in it",
    )
    parser.add_argument("--report", type=str | None, help="write tables and figures to this folder")
    parser.add_argument("--json", type=str | None, help="write what is found to this file")
    parser.add_argument("--csv", type=str | None, help="write one row a checkpoint to this file")
    parser.add_argument(
        "--real_labels",
        type=str | None,
        help="also score by ImageNet's reassessed labels: the path of real.json, or 'timm' for the"
        " copy that timm ships",
    )
    parser.add_class_arguments(EvalConfig, skip={"keep_logits"})
    parser.add_class_arguments(SlidingWindowConfig)
    group = parser.add_argument_group("preprocessing, in place of what is stored")
    group.add_argument(
        "--image_size",
        type=int | None,
        help="side of the square, in pixels; of a"
        " segmentation model the shorter side of the image, of a detector the longer one",
    )
    group.add_argument("--crop_pct", type=float | None, help="share that the central crop keeps")
    interpolations = Literal["bilinear", "bicubic", "nearest", "lanczos"]
    group.add_argument("--interpolation", type=interpolations | None, help="how images are resized")
    group.add_argument("--mean", type=list[float] | None, help="of each channel")
    group.add_argument("--std", type=list[float] | None, help="of each channel")
    skip = {"image_size", "channels", "interpolation", "crop_pct", "mean", "std", "train_split"}
    parser.add_class_arguments(DataConfig, "data", skip=skip)
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


def _check_targets(parsed: Namespace) -> None:
    for target in (parsed.json, parsed.csv):
        if target:
            check_target(Path(target))
    if parsed.report and not Path(parsed.report).is_dir():
        check_target(Path(parsed.report))
        if Path(parsed.report).exists():
            raise InputError(f"--report {parsed.report} is a file; give the name of a folder")


def _folder_of(report: str | None, label: str = "") -> Path | None:
    return Path(report) / label if report else None


def short_names(paths: Sequence[Path]) -> list[str]:
    """Short names for paths, as many of their last parts as tell them apart."""
    whole = [path.resolve() for path in paths]
    for depth in range(1, max(len(path.parts) for path in whole) + 1):
        labels = ["_".join(path.parts[-depth:]).strip("/") for path in whole]
        if len(set(labels)) == len(labels):
            return labels
    return [f"{index}_{path.name}" for index, path in enumerate(whole)]


def _parse(arguments: list[str], defaults: dict[str, Any] | None = None) -> Namespace:
    parser = make_parser()
    parser.set_defaults({f"data.{name}": value for name, value in (defaults or {}).items()})
    return parser.instantiate(parser.parse_args(arguments))


def _evaluate_all(paths: Sequence[Path], arguments: list[str]) -> list[Row]:
    """One row a checkpoint; one that cannot be evaluated does not keep the others from it."""
    report = _parse(arguments).report
    rows = []
    for path, label in zip(paths, short_names(paths), strict=True):
        try:
            rows.append(_evaluate_one(path, arguments, _folder_of(report, label)))
        except InputError as error:
            rows.append({"checkpoint": str(path), "error": " ".join(str(error).split())})
    return rows


def _evaluate_one(path: Path, arguments: list[str], report: Path | None) -> Row:
    """Evaluates a checkpoint, and writes its report if there is to be one."""
    named = any(argument.startswith("--data.name") for argument in arguments)
    defaults = data_of_run(path, named)
    parsed = _parse(arguments, defaults)
    data = DataConfig(**vars(parsed.data))
    if "name" not in defaults and not named:
        raise InputError(f"{path} is not a run's, so --data.name must say what to evaluate on")
    model, stored = _open(path, parsed.image_size)
    refuse_unused(make_parser(), parsed, _UNUSED, task_of(model))
    if task_of(model) != "classification":
        return _evaluate_dense(path, model, stored, data, parsed, report)
    real_labels = read_real_labels(parsed.real_labels) if parsed.real_labels else None
    if real_labels is not None:
        check_real_labels(open_split(data, "val"), real_labels)
    record, overridden = with_preprocessing(
        stored,
        input_size=parsed.image_size and (stored.input_size[0], *[parsed.image_size] * 2),
        **{name: getattr(parsed, name) for name in ("crop_pct", "interpolation", "mean", "std")},
    )
    config = EvalConfig(**{name: getattr(parsed, name) for name in _EVAL})
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
    parsed: Namespace,
    report: Path | None,
) -> Row:
    """Evaluates a detector or a segmentation model, and writes its report."""
    config = EvalConfig(**{name: getattr(parsed, name) for name in _EVAL})
    how = SlidingWindowConfig(**{name: getattr(parsed, name) for name in _SEGMENT})
    if parsed.image_size is not None:
        record = replace(record, input_size=(record.input_size[0], *[parsed.image_size] * 2))
    found = DenseReport(evaluate_dense(model, record, data, config, how, source=str(path)))
    row = {"checkpoint": str(path), "data": data.name, "task": task_of(model), **found.to_dict()}
    row["lines"] = [f"{data.name}: {found.lines()[0]}", *found.lines()[1:]]
    if report is not None:
        report.parent.mkdir(exist_ok=True)
        found.write(report, row)
    return row


def _open(path: Path, image_size: int | None) -> tuple[nn.Module, ModelRecord]:
    """The model, for images of this size, and the record that is stored with it."""
    if image_size is not None and image_size < 1:
        raise InputError(f"--image_size must be at least 1, got {image_size}")
    model, stored = open_model(path)
    another = stored.input_size[1:] != (image_size, image_size)
    if image_size is not None and (another or task_of(model) == "detection"):
        model, _ = open_model(path, image_size)
    return model, stored


def data_of_run(checkpoint: Path, named: bool) -> dict[str, Any]:
    """The data settings of the run that a checkpoint is of, where there is one.

    Other data that is ``named`` has no held-out share: all of it is evaluated on.
    """
    whole = {"holdout": 0.0}
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    if not (folder / SETTINGS).is_file():
        return whole
    data = read_settings(folder).get("data")
    if not isinstance(data, dict):
        raise InputError(f"{folder / SETTINGS} does not hold the settings of a run")
    wanted = [*_OF_RUN, *([] if named else ["holdout"])]
    return {**whole, **{name: data[name] for name in wanted if name in data}}


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
