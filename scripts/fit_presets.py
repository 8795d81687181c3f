"""Fits every preset that the package ships, prints their errors, and writes the table.

python scripts/fit_presets.py kat/nn/presets.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from kat.files import write_text
from kat.nn.fitting import fit_presets
from kat.nn.fitting.preset_fits import fit_for_kanify, table
from kat.tables import print_table


def main() -> None:
    """Fits, writes, prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, metavar="FILE")
    out = parser.parse_args().out
    presets = fit_presets()
    write_text(out, json.dumps(table(presets, fit_for_kanify()), indent=2, sort_keys=True) + "\n")
    columns = ("preset", "form", "fitted on", "max", "RMS", "[-3, 3]", "[-6, 6]", "[-10, 10]")
    rows = [
        (
            name,
            form,
            f"[{result.interval[0]:g}, {result.interval[1]:g}]",
            f"{result.max_error:.2e}",
            f"{result.rms_error:.2e}",
            *(f"{result.error_on(result.function, (-w, w)):.1e}" for w in (3.0, 6.0, 10.0)),
            f"{result.gain():.4f}",
        )
        for name, forms in presets.items()
        for form, result in forms.items()
    ]
    print_table((*columns, "gain"), rows)


if __name__ == "__main__":
    main()
