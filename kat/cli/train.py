"""``kat train``: trains a classifier, a detector or a segmentation model from a recipe."""

from __future__ import annotations

import re
import sys
from dataclasses import fields
from itertools import pairwise, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ActionConfigFile

from kat.cli.parsing import (
    Parser,
    check_recipe_keys,
    find_recipes,
    recipe_names,
    run_command,
)
from kat.models import build_model
from kat.tables import aligned
from kat.training import (
    Summary,
    TrainConfig,
    is_first_process,
    read_divergence,
    rehearse,
    train,
)
from kat.training.run_directory import SETTINGS, STABILITY, STABILITY_REPORT
from kat.training.tasks.registry import TASKS

if TYPE_CHECKING:
    from kat.analysis import StabilityMonitor

DRY_RUN = "--dry-run"


def main(arguments: list[str]) -> int:
    """Parses the settings and trains."""
    return run_command(lambda: _main(arguments))


def _main(arguments: list[str]) -> None:
    dry = [argument for argument in arguments if argument != DRY_RUN]
    config = settings(make_parser(), dry)
    if len(dry) < len(arguments):
        _rehearse(config)
    else:
        run(config)


def _rehearse(config: TrainConfig) -> None:
    """Makes a dry run, and prints what it found out."""
    from kat.analysis import count

    found = rehearse(config, _monitor(config))
    flops = count(build_model(found.record), found.record.input_size).flops
    rows = {**found.rows(), "FLOPs an image": f"{flops / 1e9:.4g} G, two for a multiply-add"}
    if is_first_process():
        sys.stdout.write(f"{aligned(rows.items())}\nnothing was written to {config.out}\n")


def run(config: TrainConfig) -> None:
    """Trains, and prints the outcome; of a monitored run also the verdict."""
    monitor = _monitor(config)
    if monitor is None:
        _print(train(config))
        return
    try:
        _print(train(config, monitor))
    finally:
        if monitor.rows and is_first_process():
            report(Path(config.out))


def _monitor(config: TrainConfig) -> StabilityMonitor | None:
    if not config.monitor.enabled:
        return None
    from kat.analysis import StabilityMonitor  # draws figures: not needed by other runs

    return StabilityMonitor(config.monitor.every_n_steps)


def report(out: Path) -> None:
    """Writes stability.html of a monitored run, and prints the verdict."""
    from kat.analysis import Verdict, read_rows, write_stability_report

    rows, failure = read_rows(out / STABILITY), read_divergence(out)
    write_stability_report(rows, out / STABILITY_REPORT, failure)
    lines = "\n".join(Verdict.of(rows, failure).lines)
    sys.stdout.write(f"{lines}\nreport: {out / STABILITY_REPORT}\n")


def _print(summary: Summary) -> None:
    if not is_first_process():
        return
    shown = TASKS[summary.task].module.scores
    best = ", ".join(f"{s.label} {summary.scores[s.name]:{s.format}} %" for s in shown)
    sys.stdout.write(
        f"best {best} after {summary.epochs} epochs, {summary.parameters:,} parameters,"
        f" {summary.seconds:.0f} s; {summary.skipped} files skipped; all in {summary.out}\n"
    )


def settings(parser: Parser, arguments: list[str]) -> TrainConfig:
    """The settings that recipes, options and the run that is resumed give.

    Raises:
        InputError: an unknown recipe or setting, or a value of the wrong type.
    """
    arguments = find_recipes(arguments)
    config = parse(arguments, parser)
    kept = Path(config.out) / SETTINGS
    wanted = kept.is_file() if config.resume == "auto" else config.resume
    if wanted and not _config_files(arguments):
        config = parse(["--config", str(kept), *arguments], parser)
    return config


def parse(arguments: list[str], parser: Parser | None = None) -> TrainConfig:
    """The settings that recipe files and options give, the later over the earlier.

    Raises:
        InputError: an unknown setting, or a value of the wrong type.
    """
    for path in _config_files(arguments):
        check_recipe_keys(path, TrainConfig)
    parser = parser or make_parser()
    parsed = vars(parser.instantiate(parser.parse_args(spell_out(arguments))))
    return TrainConfig(**{field.name: parsed[field.name] for field in fields(TrainConfig)})


def spell_out(arguments: list[str]) -> list[str]:
    """``--monitor`` alone is ``--monitor.enabled true``, ``--init-from`` ``--model.init_from``.

    The words after ``--loggers`` are a list.
    """
    arguments = [re.sub(r"^--init[-_]from(?==|$)", "--model.init_from", a) for a in arguments]
    followed = [*arguments[1:], "--"]
    spelt = [
        "--monitor.enabled=true" if option == "--monitor" and after.startswith("--") else option
        for option, after in zip(arguments, followed, strict=True)
    ]
    if "--loggers" not in spelt:
        return spelt
    start = spelt.index("--loggers") + 1
    words = list(takewhile(lambda word: not word.startswith("-"), spelt[start:]))
    names = ", ".join(word.strip("[], ") for word in words)
    return [*spelt[: start - 1], f"--loggers=[{names}]", *spelt[start + len(words) :]]


def make_parser() -> Parser:
    """The parser of ``kat train``, one option a setting."""
    parser = make_training_parser(
        "kat train",
        "Trains a classifier, a detector or a segmentation model, as the data is. Settings come"
        " from a recipe, and from the command line, which wins. Recipes:"
        f" {', '.join(recipe_names())}. --monitor records the stability of the GR-KAN layers on"
        " the way (kat stability --help).",
    )
    parser.add_argument(
        DRY_RUN,
        action="store_true",
        help="build everything, check data and disk, make three steps, say what the run will take;"
        " writes nothing",
    )
    return parser


def make_training_parser(name: str, description: str, **options: Any) -> Parser:
    """A parser that knows a recipe and every setting of training."""
    parser = Parser(prog=name, description=description, **options)
    parser.add_argument(
        "--config", action=ActionConfigFile, help="a recipe's name, or a YAML file of settings"
    )
    parser.add_class_arguments(TrainConfig)
    return parser


def _config_files(arguments: list[str]) -> list[str]:
    after = [value for option, value in pairwise(arguments) if option == "--config"]
    joined = [a.removeprefix("--config=") for a in arguments if a.startswith("--config=")]
    return after + joined
