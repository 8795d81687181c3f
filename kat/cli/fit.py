"""``kat fit``: coefficients of a rational that stands for a function, an expression or points."""

from __future__ import annotations

import json
import sys
from argparse import RawDescriptionHelpFormatter
from pathlib import Path

from kat.analysis import plot_fit
from kat.cli.parsing import Parser, run_command
from kat.errors import InputError
from kat.files import PICTURES, check_target, write_text
from kat.nn.fitting import FUNCTIONS, Fit, Points, fit, fit_presets, read_points, twice
from kat.nn.fitting.preset_fits import table
from kat.tables import aligned, print_table

_DESCRIPTION = f"""Fits F = P/Q of degrees (m, n) to TARGET and prints its errors and its gain.

TARGET is one of
  a function:     {", ".join(FUNCTIONS)}
  an expression:  of x, pi, e, numbers, + - * / **, these functions, abs, sqrt, exp, log, sin, erf,
                  max(a, b), ...; it is parsed here and never run as Python
  a CSV file:     two columns x,y with or without a header line, in any order

examples:
  kat fit gelu                                               the preset of this name
  kat fit gelu --interval -10 10 --plot gelu.png             good over a wider range
  kat fit "x * sigmoid(1.702 * x)" --out quick_gelu.json     then init="quick_gelu.json"
  kat fit measured.csv --degree 3 2 --method least_squares
  kat fit "x + tanh(x)" --slope-at-infinity 1 1              right beyond the interval too
  kat fit gelu --form B --interval-only                      closest on [-3, 3], useless beyond
  kat train --config digits --model.args '{{act_init: quick_gelu.json}}'
"""


def main(arguments: list[str]) -> int:
    """Parses the arguments, fits, prints, writes."""
    return run_command(lambda: _main(arguments))


def _main(arguments: list[str]) -> None:
    parsed = make_parser().parse_args([_as_value(argument) for argument in arguments])
    if (parsed.target is None) == (parsed.presets is None):
        raise InputError(
            "give either a TARGET to fit or --presets FILE; 'kat fit --help' shows how"
        )
    if parsed.presets is not None:
        _fit_presets(Path(parsed.presets))
        return
    if parsed.interval_only and parsed.form == "A":
        raise InputError("--interval-only is for form B; in form A Q never comes back to 1")
    out, plot = _checked(parsed.out, (".json",)), _checked(parsed.plot, PICTURES)
    target = _target(parsed.target.strip())
    result = fit(
        target,
        tuple(parsed.degree),
        parsed.form,
        parsed.interval and tuple(parsed.interval),
        method=parsed.method,
        weight=parsed.weight,
        slope_at_infinity=parsed.slope_at_infinity and tuple(parsed.slope_at_infinity),
        whole_line=not parsed.interval_only,
    )
    content = {**result.to_dict(), "tags": parsed.tags}
    sys.stdout.write(_report(result, target, content["gain"]))
    if out is not None:
        write_text(out, json.dumps(content, indent=2) + "\n")
    if plot is not None:
        plot_fit(result, target, plot)


def make_parser() -> Parser:
    """The parser of ``kat fit``."""
    parser = Parser(
        prog="kat fit", description=_DESCRIPTION, formatter_class=RawDescriptionHelpFormatter
    )
    parser.add_argument("target", nargs="?", metavar="TARGET", help="what to fit, see above")
    parser.add_argument(
        "--degree", nargs=2, type=int, default=[5, 4], metavar=("M", "N"),
        help="degrees of numerator and denominator (default: 5 4)",
    )  # fmt: skip
    parser.add_argument(
        "--interval", nargs=2, type=float, metavar=("LOW", "HIGH"),
        help="where to fit (default: -3 3, or all of the points)",
    )  # fmt: skip
    parser.add_argument(
        "--form", type=str, default="A",
        help="A: Q = 1 + sum |b_j||x|^j, B: Q = 1 + |sum b_j x^j| (default: A)",
    )  # fmt: skip
    parser.add_argument(
        "--method", type=str, default="minimax",
        help="minimax: the least largest error; least_squares: the least mean square"
        " (default: minimax)",
    )  # fmt: skip
    parser.add_argument(
        "--weight", type=str, default="uniform",
        help="uniform, or normal: the squared error counts by the density of N(0, 1)"
        " (default: uniform)",
    )  # fmt: skip
    parser.add_argument(
        "--slope-at-infinity", nargs=2, type=float, metavar=("LEFT", "RIGHT"),
        help="prescribe the limits of F(x)/x: a_m/|b_n| on the right and (-1)^n a_m/|b_n| on the"
        " left, so m = n + 1, and LEFT = RIGHT for even n, LEFT = -RIGHT for odd n",
    )  # fmt: skip
    parser.add_argument(
        "--interval-only", action="store_true",
        help="form B: let b_1 x + ... + b_n x^n vanish beyond the interval. The error on it may be"
        " smaller, but F may spike outside: for inputs that never leave the interval",
    )  # fmt: skip
    parser.add_argument("--out", type=str, help="write the coefficients to this .json file")
    parser.add_argument("--plot", type=str, help="draw function, fit and error (.png, .svg, .pdf)")
    parser.add_argument(
        "--tags", nargs="*", type=str, default=[], help="words to keep in the .json file"
    )
    parser.add_argument(
        "--presets", type=str, metavar="FILE",
        help="fit every preset that the package ships, print their errors, and write the table"
        " to FILE (kat/nn/presets.json in the sources)",
    )  # fmt: skip
    return parser


def _as_value(argument: str) -> str:
    """-1e-3 and -x are values: but for -h, no option has a single dash."""
    dashes = len(argument) - len(argument.lstrip("-"))
    return f" {argument}" if dashes == 1 and argument != "-h" else argument


def _checked(name: str | None, endings: tuple[str, ...]) -> Path | None:
    if name is None:
        return None
    check_target(Path(name), endings)
    return Path(name)


def _target(text: str) -> str | Points:
    is_table = text.endswith(".csv") or _is_file(text)
    return read_points(Path(text)) if is_table else text


def _report(result: Fit, target: str | Points, gain: float) -> str:
    left, right = result.slopes()
    rows = {
        "max error": f"{result.max_error:.3e}",
        "RMS error": f"{result.rms_error:.3e}",
        "RMS error under N(0, 1)": f"{result.normal_rms_error:.3e}",
        "gain 1/E[F(x)^2]": f"{gain:.4f}",
        "limits of F(x)/x": f"{left:.4g} on the left, {right:.4g} on the right",
    }
    if isinstance(target, str):
        wide = twice(result.interval)
        rows[f"max error on {_interval(wide)}"] = f"{result.error_on(target, wide):.1e}"
    rows["numerator a_0 .. a_m"] = " ".join(f"{c:.6g}" for c in result.numerator)
    rows["denominator b_1 .. b_n"] = " ".join(f"{c:.6g}" for c in result.denominator)
    head = (
        f"{result.function} on {_interval(result.interval)}{'' if result.whole_line else ' only'}:"
        f" form {result.form}, degree {result.degree}, {result.method}, {result.weight} weight\n"
    )
    return f"{head}{aligned(rows.items(), indent='  ')}\n"


def _interval(interval: tuple[float, float]) -> str:
    return f"[{interval[0]:g}, {interval[1]:g}]"


def _fit_presets(path: Path) -> None:
    check_target(path)
    presets = fit_presets()
    write_text(path, json.dumps(table(presets), indent=2, sort_keys=True) + "\n")
    columns = ("preset", "form", "fitted on", "max", "RMS", "[-3, 3]", "[-6, 6]", "[-10, 10]")
    rows = [
        (
            name,
            form,
            _interval(result.interval),
            f"{result.max_error:.2e}",
            f"{result.rms_error:.2e}",
            *(f"{result.error_on(result.function, (-w, w)):.1e}" for w in (3.0, 6.0, 10.0)),
            f"{result.gain():.4f}",
        )
        for name, forms in presets.items()
        for form, result in forms.items()
    ]
    print_table((*columns, "gain"), rows)


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except OSError:  # a long expression is no possible name
        return False
