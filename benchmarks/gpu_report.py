"""Everything that is claimed of the GPU kernels, checked and measured on a GPU in 20 minutes.

    python benchmarks/gpu_report.py                         # or: make gpu-report
    python benchmarks/gpu_report.py --peers NAME=PATH ...   # also published kernels
    python benchmarks/gpu_report.py --stand-in              # tries the script itself, on the CPU

Needs torch, triton and timm, and for the tests pytest. Writes report.json, report.csv and README.md
into benchmarks/results/gpu/NAME, anew after every step, so that a report which is cut short has all
that was done. Within a minute it is known whether every kernel is right; then come the goals, the
tests and the optional steps. A step has a process of its own and a share of the time; one that
fails, hangs or crashes is reported, and the next one runs. Exit code: 0 if all required steps were
done, 1 if not, 2 for bad input, 128 and its number for a signal.
"""

from __future__ import annotations

import argparse
import inspect
import itertools
import re
import time
from dataclasses import replace
from pathlib import Path

from gpu.page import Report, Result, write
from gpu.plan import GPU, ROOT, STAND_IN
from gpu.run import Step, run
from gpu.steps import STEPS

from kat.errors import InputError
from kat.files import check_folder
from kat.training.cluster.signals import StopRequest

SECONDS = 1200
"""For all steps; imports come before."""
RESULTS = ROOT / "benchmarks" / "results" / "gpu"


def main(arguments: list[str] | None = None, steps: tuple[Step, ...] = STEPS) -> int:
    """Runs the steps and keeps the report up to date."""
    begin = time.monotonic()
    options = parse(arguments, steps)
    plan = replace(STAND_IN if options.stand_in else GPU, peers=tuple(options.peers))
    chosen = [steps[0], *(step for step in steps[1:] if step.name in options.steps)]
    results = [Result(s.name, s.title, inspect.getdoc(s.run) or "", s.optional) for s in chosen]
    report = Report(results, stand_in=plan.stand_in)
    total = sum(step.weight for step in chosen)
    ends = itertools.accumulate(options.seconds * step.weight / total for step in chosen)
    stop, folder = StopRequest(), options.out
    stop.watch()
    for step, result, end in zip(chosen, results, ends, strict=True):
        print(f"{step.title} ...", flush=True)
        run(step, plan, result, begin + end, stop)
        print(f"  {result.line()}", flush=True)
        if step is steps[0] and result.state != "done":
            return 2
        folder = folder or folder_of(result)
        write(report, folder)
        if stop.signal is not None:
            return 128 + stop.signal
    stop.release()
    print(f"written to {folder}")
    return int(any(result.state != "done" for result in results if not result.optional))


def parse(arguments: list[str] | None, steps: tuple[Step, ...]) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    names = [step.name for step in steps[1:]]
    parser.add_argument("--steps", nargs="+", choices=names, help="only these; default: all")
    parser.add_argument(
        "--peers", nargs="+", default=[], metavar="NAME=PATH", help="as --peer of peers.py takes it"
    )
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"default {SECONDS}")
    parser.add_argument("--out", type=Path, help="folder; default: benchmarks/results/gpu/NAME")
    parser.add_argument(
        "--stand-in",
        action="store_true",
        help="the CPU in the place of a GPU, with small sizes; default of --out: build/gpu-report",
    )
    options = parser.parse_args(arguments)
    if not options.seconds > 0:
        parser.error(f"--seconds must be above 0, got {options.seconds}")
    options.steps = options.steps or [n for n in names if n != "peers" or options.peers]
    if options.stand_in:
        options.out = options.out or ROOT / "build" / "gpu-report"
    try:
        check_folder(options.out or RESULTS)
    except InputError as error:
        parser.error(str(error))
    return options


def folder_of(machine: Result) -> Path:
    """The folder of the device, from the first fact."""
    name = re.sub(r"[^a-z0-9]+", "-", str(machine.rows[0]["value"]).lower()).strip("-")
    return RESULTS / name


if __name__ == "__main__":
    raise SystemExit(main())
