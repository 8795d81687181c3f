"""Fits every preset that the package ships, prints their errors, and writes the table.

python scripts/fit_presets.py kat/nn/presets.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from kat.files import write_text
from kat.nn.coefficients import KANIFY_INTERVAL
from kat.nn.fitting import FUNCTIONS, Fit, fit
from kat.nn.fitting.fitter import measure
from kat.tables import print_table

NARROW, WIDE = (-3.0, 3.0), (-10.0, 10.0)
PRESETS = {
    **{name: (name, NARROW) for name in FUNCTIONS},
    "gelu_narrow": ("gelu", NARROW),
    "gelu_wide": ("gelu", WIDE),
    "silu_wide": ("silu", WIDE),
}
"""By name, the function and the interval of each preset of degree (5, 4)."""


def fitted(name: str, function: str, interval: tuple[float, float], form: str) -> Fit:
    """A fit with 12 significant digits: more than float32 holds, and the same on all machines."""
    found = fit(function, (5, 4), form, interval, whole_line=name != "gelu_narrow")
    a, b = map(rounded, (found.numerator, found.denominator))
    return measure(function, FUNCTIONS[function], form, interval, a, b)


def rounded(values: tuple[float, ...]) -> np.ndarray:
    """The values with 12 significant digits."""
    return np.array([float(f"{value:.12g}") for value in values])


def entry(found: Fit) -> dict[str, object]:
    """A fit as presets.json holds it."""
    names = ("numerator", "denominator", "degree", "interval")
    errors = {n: float(f"{getattr(found, n):.6g}") for n in ("max_error", "rms_error")}
    return {**{name: list(getattr(found, name)) for name in names}, **errors}


def row(name: str, found: Fit) -> list[str]:
    """A fit as the printed table has it."""
    low, high = found.interval
    errors = [f"{found.max_error:.2e}", f"{found.rms_error:.2e}"]
    errors += [f"{found.error_on(found.function, (-w, w)):.1e}" for w in (3.0, 6.0, 10.0)]
    return [name, found.form, f"[{low:g}, {high:g}]", *errors, f"{found.gain():.4f}"]


def main() -> None:
    """Fits, writes, prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, metavar="FILE")
    out = parser.parse_args().out
    kinds = {
        "presets": PRESETS,
        "kanify": {n: (n, KANIFY_INTERVAL) for n in FUNCTIONS if n != "identity"},
    }
    fits = {
        kind: {name: {form: fitted(name, *of, form) for form in "AB"} for name, of in these.items()}
        for kind, these in kinds.items()
    }
    table: dict[str, object] = {"interval": list(NARROW)}
    for kind, these in fits.items():
        table[kind] = {n: {f: entry(found) for f, found in of.items()} for n, of in these.items()}
    write_text(out, json.dumps(table, indent=2, sort_keys=True) + "\n")
    columns = ("preset", "form", "fitted on", "max", "RMS", "[-3, 3]", "[-6, 6]", "[-10, 10]")
    rows = [row(name, found) for name, of in fits["presets"].items() for found in of.values()]
    print_table((*columns, "gain"), rows)


if __name__ == "__main__":
    main()
