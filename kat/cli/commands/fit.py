"""``kat fit``: fit the coefficients of a rational to a function, an expression or points.

Fits F = P/Q of degrees (m, n) to TARGET, and prints its errors and its gain. TARGET is one of
  a function:     identity, silu, gelu, gelu_tanh, quick_gelu, relu, leaky_relu, tanh, sigmoid,
                  mish, softplus, or another function of torch, such as elu or hardswish
  an expression:  of x, pi, e, numbers, + - * / **, these functions, torch's (exp, erf, ...),
                  max(a, b) and min(a, b); it is parsed, and never run as Python
  a CSV file:     two columns x,y with or without a header line, in any order

examples:
  kat fit gelu                                               the preset of this name
  kat fit gelu --interval -10 10 --plot gelu.png             accurate over a wider range
  kat fit "x * sigmoid(1.702 * x)" --out quick_gelu.json     then init="quick_gelu.json"
  kat fit measured.csv --degree 3 2 --method least_squares
  kat fit gelu --form B --interval-only                      closest on [-3, 3], useless beyond
  kat train --config digits --model.args '{act_init: quick_gelu.json}'
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kat.cli.options.parser import Parser
from kat.documents import write_json
from kat.files import PICTURES
from kat.tables import aligned
from kat.text import say_all

if TYPE_CHECKING:
    from kat.nn.fitting import Fit, Points


def main(arguments: list[str]) -> None:
    """Fit, and print and write the result."""
    options = make_parser().parse_args([_as_value(argument) for argument in arguments])
    from kat.nn.fitting import fit, read_points  # imports torch

    text = options.target.strip()
    target = read_points(Path(text)) if text.endswith(".csv") else text
    result = fit(
        target,
        tuple(options.degree),
        options.form,
        options.interval and tuple(options.interval),
        method=options.method,
        weight=options.weight,
        whole_line=not options.interval_only,
    )
    content = {**result.to_dict(), "tags": options.tags}
    say_all(_report(result, target, content["gain"]))
    if options.out:
        write_json(options.out, content)
    if options.plot:
        from kat.analysis import plot_fit  # imports matplotlib

        plot_fit(result, target, options.plot)


def make_parser() -> Parser:
    """Return the parser of ``kat fit``."""
    parser = Parser(__doc__, "TARGET")
    add = parser.add
    add("target", metavar="TARGET", help="what to fit, see above")
    add(
        "--degree",
        nargs=2,
        type=int,
        default=[5, 4],
        metavar=("M", "N"),
        help="degrees of numerator and denominator",
    )
    add(
        "--interval",
        nargs=2,
        type=float,
        metavar=("LOW", "HIGH"),
        help="where to fit (default: -3 3, or all of the points)",
    )
    add("--form", default="A", help="A: Q = 1 + sum |b_j||x|^j, B: Q = 1 + |sum b_j x^j|")
    add(
        "--method",
        choices=("minimax", "least_squares"),
        default="minimax",
        help="minimax: smallest largest error; least_squares: smallest mean square error",
    )
    add(
        "--weight",
        choices=("uniform", "normal"),
        default="uniform",
        help="uniform; or normal: squared errors are weighted by the density of N(0, 1)",
    )
    add(
        "--interval-only",
        action="store_true",
        help=(
            "form B: let b_1 x + ... + b_n x^n vanish beyond the interval. The error on it may be"
            " smaller, but F may spike outside: for inputs that never leave the interval"
        ),
    )
    parser.add_file("--out", "write the coefficients to this .json file", (".json",))
    parser.add_file("--plot", f"draw function, fit and error ({', '.join(PICTURES)})", PICTURES)
    add("--tags", nargs="*", default=[], metavar="WORD", help="words to keep in the .json file")
    return parser


def _as_value(argument: str) -> str:
    """Return an argument such as -1e-3 or -x as a value: but -h, no option has a single dash."""
    dashes = len(argument) - len(argument.lstrip("-"))
    return f" {argument}" if dashes == 1 and argument != "-h" else argument


def _report(result: Fit, target: str | Points, gain: float) -> list[str]:
    from kat.nn.fitting import twice

    rows = {
        "max error": f"{result.max_error:.3e}",
        "RMS error": f"{result.rms_error:.3e}",
        "RMS error under N(0, 1)": f"{result.normal_rms_error:.3e}",
        "gain 1/E[F(x)^2]": f"{gain:.4f}",
    }
    if isinstance(target, str):
        wide = twice(result.interval)
        rows[f"max error on {_interval(wide)}"] = f"{result.error_on(target, wide):.1e}"
    rows["numerator a_0 .. a_m"] = " ".join(f"{c:.6g}" for c in result.numerator)
    rows["denominator b_1 .. b_n"] = " ".join(f"{c:.6g}" for c in result.denominator)
    head = (
        f"{result.function} on {_interval(result.interval)}{'' if result.whole_line else ' only'}:"
        f" form {result.form}, degree {result.degree}, {result.method}, {result.weight} weight"
    )
    return [head, *aligned(rows.items(), indent="  ")]


def _interval(interval: tuple[float, float]) -> str:
    return f"[{interval[0]:g}, {interval[1]:g}]"
