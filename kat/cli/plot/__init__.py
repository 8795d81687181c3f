"""``kat plot``: figures of trained models and of comparisons, one module a kind."""

from __future__ import annotations

import importlib
import sys

from kat.cli.parsing import run_command
from kat.errors import unknown
from kat.tables import aligned

KINDS = {
    "activations": "what each rational of a model has learned, over the inputs that it sees",
    "evolution": "how the rationals of a run changed: small multiples, an animation",
    "attention": "where a model looks, on images",
    "curves": "loss and accuracy of several runs over their epochs",
    "cost": "accuracy against parameters, FLOPs, seconds and memory",
}


def usage() -> str:
    """The text of ``kat plot --help``."""
    rows = aligned(KINDS.items(), indent="  ")
    return f"""usage: kat plot KIND [OPTIONS]

Draws figures; the ending of --out chooses the format: png, svg, pdf; of evolution gif or mp4 too.

kinds:
{rows}

examples:
  kat plot activations runs/digits --out activations.svg
  kat plot evolution runs/digits --out evolution.gif
  kat plot attention runs/digits --out attention.png
  kat plot curves runs/kat runs/vit --out curves.png
  kat plot cost runs/ablation/models.csv --out cost.svg

'kat plot KIND --help' lists the options of a kind; 'kat report' makes a page of a run."""


def main(arguments: list[str]) -> int:
    """Draws one kind of figure."""
    return run_command(lambda: _main(arguments))


def _main(arguments: list[str]) -> int:
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        sys.stdout.write(usage() + "\n")
        return 0
    if name not in KINDS:
        raise unknown("kind of figure", name, list(KINDS))
    kind = importlib.import_module(f"kat.cli.plot.{name}")
    result: int = kind.main(arguments[1:])
    return result
