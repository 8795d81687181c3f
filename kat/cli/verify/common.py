"""What the commands of ``kat verify`` share: their options, and the verification itself."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence

from kat.analysis.reports.verification import write_verification_report
from kat.analysis.verify.backends import choose_backends, present_backends
from kat.analysis.verify.cases import DTYPES, Grid
from kat.analysis.verify.output import print_verification, write_json
from kat.analysis.verify.run import Job, verify
from kat.cli.errors import FAILED
from kat.cli.options.parser import Parser, tracked


def add_verification(parser: Parser, interpreted: str) -> None:
    """Adds the options of every verification.

    Args:
        parser: the parser of the command.
        interpreted: what Triton's interpreter runs over, for the help.
    """
    add = parser.add
    add("--dtypes", type=list[str], metavar="LIST", help=f"dtypes, of {', '.join(DTYPES)}")
    add("--backends", type=list[str], metavar="LIST", help="only these backends, e.g. '[cpu]'")
    add(
        "--interpreter",
        action="store_true",
        help=f"also run the GPU kernels on the CPU, in Triton's interpreter, {interpreted}",
    )
    parser.add_file("--out", "write a report as one HTML page", (".html",))
    parser.add_json("all errors")
    parser.add_progress()


def run_verification(
    what: Grid | Sequence[Job],
    options: Namespace,
    *,
    quick: bool = False,
    inputs: Mapping[str, tuple[float, float]] | None = None,
) -> int:
    """Verifies, prints a table, writes files, and returns the exit code.

    Args:
        what: a grid, or cases.
        options: the parsed options of :func:`add_verification`.
        quick: leave out the compiled operator.
        inputs: the range of the inputs of each layer of a model.
    """
    backends, absent = present_backends()
    found = verify(
        what,
        choose_backends(options.backends, backends, absent),
        interpreter=options.interpreter,
        compiled=not (quick or options.backends),
        track=lambda jobs: tracked(jobs, "comparing", options),
    )
    found.absent.update(absent)
    found.inputs.update(inputs or {})
    print_verification(found)
    if options.json:
        write_json(found, options.json)
    if options.out:
        write_verification_report(found, options.out)
    return 0 if found.passed else FAILED
