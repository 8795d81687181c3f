"""The ``kat`` command: its usage, the table of commands, and what happens around each of them.

``kat --help`` imports this file alone: a command, its libraries and torch are imported when the
command is called.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from contextlib import suppress

from kat.cli.errors import BROKEN_PIPE, FAILED, STOPPED, run_command
from kat.errors import unknown
from kat.extras import needed_by
from kat.text import say, warn
from kat.version import __version__

COMMANDS: dict[str, str | None] = {
    "ablate": "plot",
    "compat": None,
    "completion": "train",
    "convert": "vision",
    "data check": "train",
    "eval": "train",
    "export": "export",
    "fit": "fit",
    "flops layers": "vision",
    "flops models": "vision",
    "plot activations": "plot",
    "plot attention": "plot",
    "plot cost": "plot",
    "plot curves": "plot",
    "plot evolution": "plot",
    "plot forest": "plot",
    "predict": "train",
    "report": "plot",
    "stability": "plot",
    "train": "train",
    "verify": "plot",
}
"""The commands, each with the extra of pyproject.toml that brings all that it needs,
or None if torch is enough.

``kat train`` is ``main`` of kat/cli/commands/train.py, and ``kat plot cost`` is ``cost`` of
kat/cli/commands/plot.py.
"""

USAGE = """\
usage: kat COMMAND [OPTIONS]

The Kolmogorov-Arnold Transformer (arXiv 2409.10594): train, evaluate and use KAT.

commands:
  ablate      train a grid of factors and seeds, and compare the cells
  compat      check what of a project written for the published packages is served
  completion  print a script that lets the shell complete commands, options and values
  convert     make a KAT from a trained ViT, and report how much its outputs change
  data        check a dataset before training
  eval        evaluate checkpoints on a dataset: accuracy and calibration, COCO's AP, or mIoU
  export      write a trained model in a form that runs elsewhere
  fit         fit the coefficients of a rational to a function, an expression or points
  flops       count parameters, FLOPs and activation memory of models and layers
  plot        draw figures of trained models and of comparisons
  predict     predict what is in images: classes, objects, or the class of each pixel
  report      write one page about a run, of several runs, or of an ablation
  stability   report on the GR-KAN layers of monitored runs
  train       train a model from a recipe
  verify      compare every backend on this machine with the reference in float64

examples:
  kat train --config digits                              a first run, in about a minute
  kat train --config imagenet_kat_tiny --data folder:/data/imagenet
  kat train --config digits --monitor                    and record the GR-KAN layers
  kat eval runs/digits                                   the best weights of a run
  kat predict photos --checkpoint runs/digits --csv predictions.csv
  kat convert runs/vit --model kat_micro_patch4_28 --out kat_micro
  kat export runs/digits --out digits.onnx               a file that runs elsewhere
  kat fit "x * sigmoid(1.702 * x)" --out act.json        coefficients for init="act.json"
  kat flops models                                       the paper's table of costs
  kat ablate components                                  the contribution of each part of KAT
  kat plot activations runs/digits --out activations.svg
  kat report runs/digits                                 a page of the run
  kat data check coco:/data/coco                         find invalid images and annotations
  kat compat PROJECT                                     code written for the authors' packages
  kat verify                                             check every backend on this machine

'kat help COMMAND' lists the options of a command, 'kat --version' prints the version, and
'kat completion bash' (zsh, fish) lets the shell complete commands and options.
"""

GROUPS = {
    "data": """\
usage: kat data COMMAND [OPTIONS]

Check a dataset before training.

commands:
  check       find invalid images and annotations before training

examples:
  kat data check coco:/data/coco
""",
    "flops": """\
usage: kat flops COMMAND [OPTIONS]

Count parameters, FLOPs and activation memory of models and layers.

commands:
  layers      count parameters and FLOPs of MLP, GR-KAN and KAN layers for one token
  models      count parameters, FLOPs and activation memory of models, for one image

examples:
  kat flops models                                       the paper's table of costs
  kat flops models runs/digits --layers
  kat flops layers 192 768                               MLP, GR-KAN and KAN layers
""",
    "plot": """\
usage: kat plot COMMAND [OPTIONS]

Draw figures of trained models and of comparisons.

commands:
  activations draw the learned rationals of a model and the density of inputs
  attention   draw where a model attends, over images
  cost        draw accuracy against parameters, FLOPs, seconds and memory
  curves      draw learning curves of one or several runs
  evolution   draw how the rationals of a run changed during training
  forest      draw the differences of all cells of several grids, one line each

The ending of --out chooses the format. 'kat report' makes a page of a run.

examples:
  kat plot activations runs/digits --out activations.svg
  kat plot evolution runs/digits --out evolution.gif
  kat plot attention runs/digits --out attention.png
  kat plot curves runs/kat runs/vit --out curves.png
  kat plot cost runs/ablation/models.csv --out cost.svg
  kat plot forest runs/ablation/models.csv runs/ablation/groups.csv --out forest.svg
""",
}
"""The usage of each group of commands, such as ``kat plot``."""

_HELP = ("-h", "--help", "help")


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code.

    0 done, 1 failed, 2 bad input, 75 stopped and can be resumed, 130 Ctrl-C.

    If nobody reads its output any more, as in ``kat flops models | head -1``, it ends quietly; with
    standard output closed from the start, as by ``>&-``, it prints nothing.
    """
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:
            setattr(sys, stream, open(os.devnull, "w"))  # noqa: SIM115 (until the process ends)
    given = sys.argv[1:] if arguments is None else arguments
    code = 0
    try:
        try:
            code = run_command(lambda: _run(given), given)
        finally:
            sys.stdout.flush()
    except OSError as error:  # nobody reads standard output, or its disk is full
        with suppress(OSError), open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())  # else Python fails as it ends
        if isinstance(error, BrokenPipeError):
            return BROKEN_PIPE
        if code:
            return code
        warn(f"kat: standard output cannot be written: {error.strerror}")
        return FAILED
    return code


def _run(words: list[str]) -> int | None:
    if words[:1] == ["--version"]:
        say(f"kat {__version__}")
        return 0
    if words[:1] == ["help"]:  # kat help train
        words = [*words[1:], "--help"]
    name, *rest = words or ["--help"]
    if name in _HELP:
        sys.stdout.write(USAGE)
        return 0
    if name in GROUPS:
        inner, *rest = rest or ["--help"]
        if inner in _HELP:
            sys.stdout.write(GROUPS[name])
            return 0
        name = f"{name} {inner}"
    if name not in COMMANDS:
        raise unknown("command", name, [*COMMANDS, *GROUPS])
    if name in ("train", "ablate"):  # a scheduler may stop these, and start them again
        for number in {signal.SIGTERM, getattr(signal, "SIGUSR1", signal.SIGTERM)}:
            signal.signal(number, _stop)
    file, _, function = name.partition(" ")
    with needed_by(f"kat {name}", COMMANDS[name]):
        module = importlib.import_module(f"kat.cli.commands.{file}")
        code: int | None = getattr(module, function or "main")(rest)
        return code


def _stop(number: int, frame: object) -> None:
    """End the process at once, outside the steps of training, which handle signals themselves.

    An exception could be caught by any of the modules that are being imported. A process that is
    killed leaves nothing half-written, so this one leaves nothing either.
    """
    if os.environ.get("LOCAL_RANK", "0") == "0":
        with suppress(OSError):
            os.write(2, f"kat: stopped by {signal.Signals(number).name}\n".encode())
    os._exit(STOPPED)
