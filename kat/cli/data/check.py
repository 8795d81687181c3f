"""``kat data check``: find invalid images and annotations before training.

Opens every image and every annotation of both splits, and prints one line for each kind of problem,
with the count and the first example. With --skip, what training can leave out
(data.bad_annotations=skip) is no failure. Exit code: 0 everything is valid, 1 something is not, 2
the data cannot be opened at all.

examples:
  kat data check coco:/data/coco
  kat data check ade20k:/data/ADEChallengeData2016 --num-workers 16
  kat data check coco:/data/mine --skip --headers           sizes only: finds no torn JPEG
  kat data check folder:/data/imagenet                      a dataset of classification
"""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from kat.cli.parsing import FAILED, Parser
from kat.data.check import SPLITS, SplitReport, check_split, class_problems
from kat.data.config import DataConfig
from kat.data.dense.validation import Problem
from kat.settings import Count
from kat.text import counted, quoted, say


def main(arguments: list[str]) -> int:
    """Checks and prints; 1 if something is wrong."""
    options = make_parser().parse_args(arguments)
    config = DataConfig(name=options.data, num_workers=options.num_workers)
    splits = SPLITS if options.split is None else (options.split,)
    reports = [_with_progress(config, split, options.headers, options.progress) for split in splits]
    for report in reports:
        _print(report, options.skip)
    between = class_problems(reports)
    _print_problems(between, options.skip)
    problems = between + [problem for report in reports for problem in report.problems]
    fatal = sum(problem.fatal(options.skip) for problem in problems)
    say(_verdict(len(problems), fatal, options.skip))
    return FAILED if fatal else 0


def make_parser() -> Parser:
    """The parser of ``kat data check``."""
    parser = Parser(__doc__, "DATA")
    parser.add("data", metavar="DATA", help="the dataset, as --data of 'kat train'")
    parser.add("--split", choices=SPLITS, help="check this split only")
    parser.add("--skip", action="store_true", help="leave out what training can leave out")
    parser.add("--headers", action="store_true", help="read only the sizes of images")
    parser.add("--num-workers", type=Count, default=8, metavar="N", help="threads that read images")
    parser.add_progress()
    return parser


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
    say(f"{report.split}: {report.images} images, {report.contents}, {len(report.classes)} classes")
    _print_problems(report.problems, skip)
    if report.unused:
        listed = quoted(report.unused, "class", "classes")
        say(f"  note     {len(report.unused)} without an example: {listed}")


def _print_problems(problems: list[Problem], skip: bool) -> None:
    for problem in problems:
        if problem.fatal(skip):
            say(f"  fatal    {problem}")
        else:
            say(f"  skipped  {problem}; {problem.remedy}")


def _verdict(problems: int, fatal: int, skip: bool) -> str:
    if not problems:
        return "nothing is wrong"
    kinds = f"{counted(problems, 'kind')} of problems, {fatal} fatal"
    hint = "" if skip else "; --skip lists what training can leave out"
    return kinds + hint
