"""``kat data``: check a dataset before training."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Collection
from dataclasses import fields, replace
from functools import partial
from itertools import chain
from operator import itemgetter
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

import kat
from kat.cli.errors import FAILED
from kat.cli.options.parser import Parser, write_json
from kat.data.config import SPLITS, DataConfig
from kat.errors import InputError
from kat.settings import Count
from kat.text import counted, listing, say

_OPENING = (
    "root", "train_split", "val_split", "download", "num_classes", "image_key", "label_key",
)  # fmt: skip
"""The settings of data by which a dataset is opened."""
_LISTED = 12
"""The most classes whose counts are printed: the smallest of more."""


def check(arguments: list[str]) -> int:
    """``kat data check``: find invalid images and annotations before training.

    Opens every image and every annotation of both splits. Prints one line for each kind of problem
    and for each reason why files are left out, with the count and the first case; --json lists all
    cases. Training refuses data with a "fatal" problem, leaves out "skipped" files, and uses files
    with a "warning", such as an image in two classes or two splits. Exit code: 0 if nothing is
    fatal, 1 if something is, 2 if the data cannot be opened.

    examples:
      kat data check coco:/data/coco
      kat data check ade20k:/data/ADEChallengeData2016 --num-workers 16 --json problems.json
      kat data check coco:/data/mine --skip                     as with data.bad_annotations=skip
      kat data check folder:/data/imagenet                      a dataset of classification
      kat data check torch/cifar10 --data.root /data
    """
    options = check_parser().parse_args(arguments)
    splits = SPLITS if options.split is None else (options.split,)
    reports = _reports(options, splits)
    between = kat.data.between_splits([report for report in reports if report.classes])
    skipped = {"bad_annotations"} if options.skip else set()
    skipped |= {"bad_images"} if options.bad_images == "skip" else set()
    for report in reports:
        _print(report, skipped)
    _print_problems(between, skipped)
    problems = [*between, *chain.from_iterable(report.problems for report in reports)]
    fatal = [problem for problem in problems if problem.severity(skipped) == "fatal"]
    found = {
        "data": options.dataset,
        "splits": [_content(report, skipped) for report in reports],
        "problems": [problem.to_dict(skipped) for problem in between],
        "fatal": len(fatal),
    }
    write_json(options, found)
    kinds = f"{counted(len(problems), 'kind')} of problems, {len(fatal)} fatal"
    helps = not options.skip and any(problem.setting == "bad_annotations" for problem in fatal)
    hint = "; --skip lists what training can leave out" if helps else ""
    say(kinds + hint if problems else "nothing is wrong")
    return FAILED if fatal else 0


def check_parser() -> Parser:
    """Return the parser of ``kat data check``."""
    parser = Parser(check.__doc__, "DATA")
    parser.add("dataset", metavar="DATA", help="the dataset, as --data of 'kat train'")
    others = {field.name for field in fields(DataConfig)} - set(_OPENING)
    parser.add_settings(DataConfig, "data", others)
    parser.add("--split", choices=SPLITS, help="check this split only")
    parser.add("--skip", action="store_true", help="as data.bad_annotations=skip in training")
    parser.add(
        "--bad-images",
        choices=("skip", "fail"),
        default="skip",
        help="as data.bad_images in training",
    )
    parser.add_common("--exif", "--progress")
    parser.add("--boxes-only", action="store_true", help="as data.boxes_only=true in training")
    parser.add("--num-workers", type=Count, default=8, metavar="N", help="threads that read images")
    parser.add_json("all cases of all problems, and the number of images of each class")
    return parser


def _reports(options: Namespace, splits: Collection[str]) -> list[kat.data.SplitReport]:
    """Return the report of each split; one that cannot be opened is a problem, unless none can."""
    import numpy as np

    from kat.data.check import Problem, SplitReport, check_split  # imports torch

    config = DataConfig(
        name=options.dataset,
        **vars(options.data),
        num_workers=options.num_workers,
        exif=options.exif,
        boxes_only=options.boxes_only,
    )
    reports, errors = [], []
    screen = Console(stderr=True)
    screen.quiet = not (options.progress and screen.is_terminal)  # a hidden bar ends in a line
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        console=screen,
        transient=True,
    ) as bar:
        for split in splits:
            tell = partial(bar.update, bar.add_task(split, total=None))
            try:
                reports.append(check_split(config, split, tell=tell))
            except InputError as error:
                errors.append(error)
                problem = Problem("splits that cannot be opened", [str(error)])
                reports.append(SplitReport(split, "not opened", {}, [problem], [], np.zeros(0)))
    if len(errors) == len(splits):
        raise errors[0]
    return reports


def _content(report: kat.data.SplitReport, skipped: Collection[str]) -> dict[str, Any]:
    """Return a split's entry in the file of ``--json``."""
    return {
        "split": report.split,
        "images": len(report.hashes),
        "contents": report.contents,
        "classes": report.classes,
        "problems": [problem.to_dict(skipped) for problem in report.problems],
        "notes": report.notes,
    }


def _print(report: kat.data.SplitReport, skipped: Collection[str]) -> None:
    say(f"{report.split}: {report.contents}, {len(report.classes)} classes")
    if counts := list(report.classes.items()):
        if len(counts) > _LISTED:
            counts.sort(key=itemgetter(1))
        say(f"  classes  {listing((f'{name!r} {count}' for name, count in counts), _LISTED)}")
    _print_problems(report.problems, skipped)
    for note in report.notes:
        say(f"  note     {note}")


def _print_problems(problems: list[kat.data.check.Problem], skipped: Collection[str]) -> None:
    for problem in problems:
        severity = problem.severity(skipped)
        remedy = "" if severity == "fatal" else f"; {problem.remedy}"
        by_reason: dict[str, list[str]] = {}
        for case in problem.cases:
            reason = case.partition(": ")[2] if problem.setting == "bad_images" else ""
            by_reason.setdefault(reason, []).append(case)
        for cases in by_reason.values():
            say(f"  {severity:8} {replace(problem, cases=cases)}{remedy}")
