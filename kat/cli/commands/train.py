"""``kat train``: train a model from a recipe.

Trains a classifier, a detector or a segmentation model, depending on the data. Settings come from a
recipe and from the command line, which takes precedence. Without --config, data of your own have
the recipe finetune, finetune_detection or finetune_segmentation; --config none leaves it out.
--monitor records the GR-KAN layers during training: mean and variance of inputs and outputs, gain,
gradients, drift of the coefficients (docs/training.md).

examples:
  kat train --config digits                                    a first run, in about a minute
  kat train --data folder:/data/flowers                        model, size and recipe are chosen
  kat train --data folder:/data/flowers --init-from vit_tiny_patch16_224            fine-tuning
  kat train --config imagenet_kat_tiny --data folder:/data/imagenet --devices 8 --resume auto
  kat train --config imagenet_kat_tiny --data folder:/data/imagenet --dry-run

the settings that matter most:
  data.name        the dataset                             --data folder:/data/flowers
  model.name       the model                               --model.name kat_tiny_patch16_224
  model.init_from  start from this trained model           --init-from runs/imagenet
  epochs           passes over the training data           --epochs 100
  data.batch_size  images per step in each process         --data.batch_size 256
  data.image_size  side of the images that the model sees  --data.image_size 224
  optim.lr         peak learning rate                      --optim.lr 5e-4
  precision        floating-point format                   --precision bf16-mixed
  out              the run directory                       --out runs/mine
  resume           resume the run in out                   --resume auto

--data, --model, --init-from, --functions-from, --monitor and --device are short for data.name,
model.name, model.init_from, model.functions_from, monitor.enabled and accelerator. --help-all shows
every setting. In the names of settings, - and _ mean the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kat import training
from kat.cli.options.stability_report import print_stability
from kat.cli.options.training_settings import TrainingParser, parse_training
from kat.errors import Interrupted, TrainingDiverged
from kat.tables import aligned
from kat.text import counted, say, say_all, scaled

if TYPE_CHECKING:  # the help and a wrong option come without torch
    from kat.training import Summary


def main(arguments: list[str]) -> None:
    """Train, or make a dry run."""
    if {"-h", "--help"} & set(arguments):
        make_parser(settings=False).parse_args(["--help"])
    if {"--help-all", "--help_all"} & set(arguments):
        make_parser().parse_args(["--help"])
    given, options = parse_training(make_parser(), arguments)
    work = _dry_run if options.get("dry_run") else run
    work(given, quiet=bool(options.get("quiet")))


def make_parser(*, settings: bool = True) -> TrainingParser:
    """Return the parser of ``kat train``."""
    parser = TrainingParser(__doc__, settings=settings)
    parser.add(
        "--dry-run",
        action="store_true",
        help="build everything, make three steps, check the disk, and say what the run will take;"
        " writes nothing but caches",
    )
    return parser


def _dry_run(given: Mapping[str, Any], *, quiet: bool) -> None:
    """Make a dry run, and print what it found out."""
    import torch

    from kat.analysis import count
    from kat.models import build_model

    with redirect_stdout(StringIO()) if quiet else nullcontext():
        found = training.measure_dry_run(given)
    with torch.device("meta"):  # the initial weights of a large model take minutes
        model = build_model(found.record)
    flops = count(model, found.record.input_size).flops
    rows = {**found.rows(), "FLOPs per image": f"{scaled(flops)}, two for a multiply-add"}
    if training.is_first_process():
        say_all([*aligned(rows.items()), f"nothing was written to {given['out']}"])


def run(given: Mapping[str, Any], *, quiet: bool = False) -> None:
    """Train and print the outcome, and of a monitored run the report; if quiet, nothing else."""
    try:
        with redirect_stdout(StringIO()) if quiet else nullcontext():
            summary = training.train(given)
        _print(summary)
    except Exception as error:
        vars(error)["run_directory"] = given["out"]  # its traceback is kept there
        if isinstance(error, Interrupted | TrainingDiverged):
            _report_monitored(given)
        raise
    _report_monitored(given)


def _report_monitored(given: Mapping[str, Any]) -> None:
    from kat.training.record.run_directory import STABILITY

    out = Path(given["out"])
    if given["monitor"]["enabled"] and training.is_first_process() and (out / STABILITY).is_file():
        print_stability(out)


def _print(summary: Summary) -> None:
    from kat.training.tasks.classification.report import interval
    from kat.training.tasks.registry import TASKS

    if not training.is_first_process():
        return
    found = summary.metrics
    shown = [metric for metric in TASKS[summary.task].metrics if metric.name in found]
    best = [f"{metric.label} {found[metric.name]:{metric.format}} %" for metric in shown]
    if "top1" in found:
        best[0] += interval(found["top1"], summary.validation_images)
    say(
        f"best {', '.join(best)} in epoch {summary.best_epoch} of {summary.epochs},"
        f" {summary.parameters:,} parameters, {summary.seconds:.0f} s;"
        f" {counted(summary.skipped, 'file')} skipped; all in {summary.out}"
    )
