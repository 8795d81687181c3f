"""The ``kat`` command. It lives outside the package so that ``kat --help`` need not import torch.

Each command is a module ``kat.cli.<name>`` with a ``main(arguments) -> int``; it is imported when
it is called, and not before.
"""

from __future__ import annotations

import difflib
import importlib
import sys

COMMANDS = {
    "train": "train a model from a recipe, with overrides on the command line",
    "eval": "evaluate checkpoints on a data set: top-1 and calibration, COCO's AP, or mIoU",
    "stability": "train under watch: variance, gain, gradients of every GR-KAN layer, a verdict",
    "ablate": "train a grid of factors and seeds, and say what each brings",
    "predict": "what a model sees in images: classes, objects, or the class of each pixel",
    "convert": "make a KAT of a trained ViT, and say how far its outputs moved",
    "export": "write a trained model as .pt2, ONNX or a folder of the Hugging Face Hub's",
    "fit": "fit a rational's coefficients to a function, an expression or points",
    "flops": "parameters, FLOPs and activation memory of models, by counting and by formula",
    "plot": "figures: activations, their evolution, attention, learning curves, costs",
    "report": "one interactive page of a run, of several runs, or of an ablation",
    "data": "check a data set before training; make one for detection and segmentation",
    "bench": "measure: is loading the data the bottleneck, or the model?",
    "verify": "compare every backend on this machine with exact values",
}

USAGE_ERROR = 2


def usage() -> str:
    """The text of ``kat --help``."""
    rows = "\n".join(f"  {name:<10} {summary}" for name, summary in COMMANDS.items())
    return f"""usage: kat COMMAND [OPTIONS]

The Kolmogorov-Arnold Transformer (arXiv 2409.10594): train, evaluate and use KAT models.

commands:
{rows}

examples:
  kat train --config digits                              a first run, in about a minute
  kat train --config imagenet_kat_tiny --data.name folder:/data/imagenet
  kat stability --config digits                          is the variance preserved in training?
  kat eval --checkpoint runs/digits                      the best weights of a run
  kat predict cat.jpg dog.jpg --checkpoint runs/digits --json answers.json
  kat convert runs/vit --model kat_micro_patch4_28 --out kat_micro
  kat export runs/digits --out digits.onnx               a file that runs elsewhere
  kat fit "x * sigmoid(1.702 * x)" --out act.json        coefficients for init="act.json"
  kat flops                                              the paper's table of costs, by counting
  kat ablate components                                  what each part of KAT brings
  kat plot activations runs/digits --out activations.svg
  kat report runs/digits                                 a page to look at: runs/digits/report.html
  kat data check coco:/data/coco                         is anything wrong with the data?
  kat bench data --config imagenet_kat_tiny --data.name folder:/data/imagenet
  kat verify --html verify.html                          is the function right on this machine?

'kat COMMAND --help' lists the options of a command, 'kat --version' prints the version."""


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0 done, 1 failed, 2 bad input."""
    arguments = sys.argv[1:] if arguments is None else arguments
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help", "help"):
        sys.stdout.write(usage() + "\n")
        return 0
    if name == "--version":
        from importlib.metadata import version

        sys.stdout.write(f"kat {version('kolmogorov-arnold-transformer')}\n")
        return 0
    if name not in COMMANDS:
        nearest = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        sys.stderr.write(f"kat: unknown command {name!r}{hint} ('kat --help' lists them)\n")
        return USAGE_ERROR
    command = importlib.import_module(f"kat.cli.{name}")
    return command.main(arguments[1:])


if __name__ == "__main__":
    raise SystemExit(main())
