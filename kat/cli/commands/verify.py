"""``kat verify``: compare every backend on this machine with the reference in float64.

Compares the rational function and its gradients in both forms, four degrees and four dtypes, with
three sets of coefficients and |x| by decade up to the largest number of each dtype. The GPU kernels
support three degrees and three dtypes. Exit code: 0 if all errors are within rounding, 1 if not.

examples:
  kat verify                                  every backend, in a minute
  kat verify --interpreter                    also the GPU kernels, on the CPU
  kat verify --backends '[cpu]' --dtypes '[float32]' --json verify.json
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from kat.analysis.dtypes import DTYPES
from kat.cli.errors import FAILED
from kat.cli.options.parser import Parser, tracked, write_json
from kat.errors import InputError, unknown
from kat.tables import print_table
from kat.text import say, say_all
from kat.version import __version__

if TYPE_CHECKING:
    from kat.analysis.verify import Result

_LISTED = 10
"""Failures that are printed; --json writes all results."""


def main(arguments: list[str]) -> int:
    """Verify, and print a table; return 1 if anything failed."""
    options = make_parser().parse_args(arguments)
    for name in options.dtypes:
        if name not in DTYPES:
            raise unknown("dtype", name, DTYPES)
    from kat.analysis.verify import cases, present_backends, verify, verify_interpreted

    os.environ["KAT_GPU_CHECK"] = "off"  # the same comparison
    backends, absent = present_backends()
    by_name = {backend.name: backend for backend in backends}
    chosen = list(by_name) if options.backends is None else options.backends
    for name in chosen:
        if name not in by_name:
            reason = absent.get(name, f"there are {', '.join(by_name)}")
            raise InputError(f"the backend {name} is unavailable: {reason}")
    found = verify(
        [by_name[name] for name in chosen], tracked(cases(options.dtypes), "comparing", options)
    )
    if options.interpreter:
        found += verify_interpreted()
    _print(found)
    failures = sorted((r for r in found if not r.ratio <= 1), key=lambda r: -r.ratio)
    say_all(f"unavailable: {name}: {reason}" for name, reason in absent.items())
    say_all(f"FAILED {result}" for result in failures[:_LISTED])
    rows = [result._asdict() for result in found]
    write_json(options, {"passed": not failures, "results": rows})
    say(
        f"{len(failures)} of {len(found)} comparisons FAILED"
        if failures
        else f"all {len(found)} comparisons passed"
    )
    return FAILED if failures else 0


def make_parser() -> Parser:
    """Return the parser of ``kat verify``."""
    parser = Parser(__doc__)
    parser.add("--backends", type=list[str], metavar="LIST", help="only these, e.g. '[cpu]'")
    parser.add(
        "--dtypes",
        type=list[str],
        default=list(DTYPES),
        metavar="LIST",
        help=f"dtypes, of {', '.join(DTYPES)}",
    )
    parser.add(
        "--interpreter",
        action="store_true",
        help="also run the GPU kernels on the CPU, in Triton's interpreter, over a small part",
    )
    parser.add_json("all results")
    parser.add_common("--progress")
    return parser


def _print(found: list[Result]) -> None:
    """Print the largest errors by backend, dtype and quantity."""
    import torch

    from kat.analysis.verify import QUANTITIES
    from kat.ops.cpu.library import find_library

    largest: dict[tuple[str, str], dict[str, float]] = {}
    for result in found:
        row = largest.setdefault((result.backend, result.dtype), dict.fromkeys(QUANTITIES, 0.0))
        row[result.quantity] = max(row[result.quantity], result.ratio)
    rows = []
    for (backend, dtype), row in largest.items():
        rows.append([backend, dtype, *(f"{ratio:.2f}" for ratio in row.values())])
    library = find_library()
    kernel = library if isinstance(library, str) else f"{library.name}, of {library.available}"
    say(f"kat {__version__}, torch {torch.__version__}, CPU kernel: {kernel}")
    say("largest error / tolerance (at most 1 passes)")
    print_table(("backend", "dtype", *QUANTITIES), rows)
