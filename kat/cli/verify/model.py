"""``kat verify model``: compare every backend with exact values on a trained model's coefficients.

Every group of every rational of the model, over the inputs that it sees: of the validation images
of --data, or of noise. Exit code: 0 if everything is exact to rounding, 1 if anything is not.

examples:
  kat verify model runs/digits --data digits
  kat verify model model.safetensors --backends '[cpu]' --dtypes '[float32]'
"""

from __future__ import annotations

from pathlib import Path

from kat.analysis.verify.cases import Grid, check_grid
from kat.analysis.verify.model_cases import cases_of_checkpoint
from kat.analysis.verify.run import case_jobs
from kat.cli.options.parser import MODEL, Parser, given
from kat.cli.verify.common import add_verification, run_verification
from kat.data import DataConfig


def main(arguments: list[str]) -> int:
    """Verifies, prints a table; 1 if anything failed."""
    options = make_parser().parse_args(arguments)
    dtypes = options.dtypes or Grid().dtypes
    check_grid(Grid(dtypes=tuple(dtypes)))
    settings = given(options.data)
    data = DataConfig(**settings) if settings else None
    cases, inputs = cases_of_checkpoint(options.run, data, dtypes)
    return run_verification(case_jobs(cases), options, inputs=inputs)


def make_parser() -> Parser:
    """The parser of ``kat verify model``."""
    parser = Parser(__doc__, "RUN")
    parser.add("run", type=Path, metavar="RUN", help=MODEL)
    parser.add_data()
    add_verification(parser, "which takes minutes")
    return parser
