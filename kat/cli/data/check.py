"""``kat data check``: what is wrong with a data set, one line a kind."""

from __future__ import annotations

import sys
from argparse import RawDescriptionHelpFormatter

from jsonargparse import DefaultHelpFormatter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from kat.cli.parsing import FAILED, Parser, run_command
from kat.data.check import SPLITS, SplitReport, check_split, class_problems
from kat.data.config import DataConfig
from kat.data.dense.validation import Problem
from kat.errors import unknown
from kat.text import counted, quoted

_DESCRIPTION = """\
Opens every image and every annotation of both splits, and prints one line for each kind of problem,
with the count and the first example. With --skip those that training can do without
(data.bad_annotations=skip) are no failure. Exit code: 0 fine, 1 something is wrong, 2 the data
cannot be opened at all.

examples:
  kat data check coco:/data/coco
  kat data check ade20k:/data/ADEChallengeData2016 --workers 16
  kat data check coco:/data/mine --skip --headers true      sizes only; finds no torn JPEG
  kat data check folder:/data/imagenet                      data of classification, too"""


class _Formatter(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Leaves the lines of the description as they are."""


def main(arguments: list[str]) -> int:
    """Parses the arguments, checks, prints."""
    return run_command(lambda: _main(arguments))


def _main(arguments: list[str]) -> int:
    options = make_parser().parse_args(arguments)
    config = DataConfig(name=options.name, num_workers=options.workers)
    if options.split not in (None, *SPLITS):
        raise unknown("split", options.split, SPLITS)
    splits = SPLITS if options.split is None else (options.split,)
    reports = [_with_progress(config, split, options.headers, options.progress) for split in splits]
    for report in reports:
        _print(report, options.skip)
    between = class_problems(reports)
    _print_problems(between, options.skip)
    problems = between + [problem for report in reports for problem in report.problems]
    fatal = sum(problem.fatal(options.skip) for problem in problems)
    sys.stdout.write(_verdict(len(problems), fatal, options.skip) + "\n")
    return FAILED if fatal else 0


def _with_progress(config: DataConfig, split: str, headers: bool, shown: bool) -> SplitReport:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not shown) as bar:
        task = bar.add_task(split, total=None)
        return check_split(
            config,
            split,
            headers_only=headers,
            tell=lambda done, count: bar.update(task, completed=done, total=count),
        )


def _print(report: SplitReport, skip: bool) -> None:
    sys.stdout.write(
        f"{report.split}: {report.images} images, {report.contents},"
        f" {len(report.classes)} classes\n"
    )
    _print_problems(report.problems, skip)
    if report.unused:
        listed = quoted(report.unused, "class", "classes")
        sys.stdout.write(f"  note     {len(report.unused)} without an example: {listed}\n")


def _print_problems(problems: list[Problem], skip: bool) -> None:
    for problem in problems:
        if problem.fatal(skip):
            sys.stdout.write(f"  fatal    {problem}\n")
        else:
            sys.stdout.write(f"  skipped  {problem}; {problem.remedy}\n")


def _verdict(problems: int, fatal: int, skip: bool) -> str:
    if not problems:
        return "nothing is wrong"
    kinds = f"{counted(problems, 'kind')} of problems, {fatal} fatal"
    hint = "" if skip else "; --skip says what training can do without"
    return kinds + hint


def make_parser() -> Parser:
    """The parser of ``kat data check``."""
    parser = Parser(prog="kat data check", description=_DESCRIPTION, formatter_class=_Formatter)
    parser.add_argument("name", type=str, help="the data set, as data.name of 'kat train'")
    parser.add_argument("--split", type=str | None, help="train or val alone (default: both)")
    parser.add_argument(
        "--skip", action="store_true", help="do without what training can do without"
    )
    parser.add_argument("--headers", type=bool, default=False, help="of images read the size alone")
    parser.add_argument("--workers", type=int, default=8, help="threads that look at images")
    parser.add_argument("--progress", type=bool, default=True, help="show a bar")
    return parser
