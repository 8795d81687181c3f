"""Makes the runs of plan.yaml.

    python examples/domains/plan.py                        # every run that is missing, hours
    python examples/domains/plan.py --domain images        # the runs of one domain
    python examples/domains/plan.py --table                # no runs: tables of what is done

Rows are in examples/domains/results, a CSV file a domain. A run whose row is there is not made
again, so the plan can be stopped, and its domains can run side by side. Each process takes the
threads that OMP_NUM_THREADS says.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

from extra import needed

with needed():
    import yaml

FOLDER = Path(__file__).parent
PLAN: dict[str, dict[str, Any]] = yaml.safe_load((FOLDER / "plan.yaml").read_text())
RESULTS = FOLDER / "results"


def main() -> None:
    """Runs the command of each domain with what the plan declares for it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--domain", nargs="+", choices=PLAN, default=list(PLAN))
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of CSV files")
    parser.add_argument("--table", action="store_true", help="make no runs: print the tables")
    options = parser.parse_args()
    for name in options.domain:
        script = str(FOLDER / f"{name}.py")
        command = [sys.executable, script, *arguments(name, options.results)]
        subprocess.run([*command, *(["--table"] if options.table else [])], check=True)


def arguments(name: str, results: Path) -> list[str]:
    """The options of the command of a domain."""
    declared = PLAN[name]
    seeds = map(str, declared["seeds"])
    return [
        "--task", *declared["tasks"], "--seed", *seeds, "--steps", str(declared["steps"]),
        "--csv", str(results / f"{name}.csv"),
    ]  # fmt: skip


if __name__ == "__main__":
    main()
