"""The report as JSON, as one CSV and as a page, with the goals and what is met."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from kat.files import write_text
from kat.tables import columns_of, write_table

Row = dict[str, str | float]
STATES = ("failed", "out of time", "stopped", "skipped", "done", "not run")
"""How a step can end, the worst first."""
SHARES = {"forward": ("copy", 0.90), "backward": ("add", 0.85)}
"""By kernel, the operation that moves as many arrays, and the share of its bandwidth."""
VIT_SHARE = 0.97
HOST_US = {"forward": 15, "forward+backward": 40}
STAND_IN = (
    "**No GPU has run this.** The CPU stood in for one, to try the script: the sizes are small, the"
    " kernels were interpreted, nothing was compiled. The figures say nothing about any GPU."
)


@dataclass
class Result:
    """What a step has given so far; ``about`` says what its rows are."""

    name: str
    title: str
    about: str = ""
    optional: bool = False
    state: str = "not run"
    error: str = ""
    seconds: float = 0.0
    budget: float = 0.0
    rows: list[Row] = field(default_factory=list)

    def line(self) -> str:
        """For the terminal."""
        reason = f": {self.error}" if self.error else ""
        return f"{self.state} after {self.seconds:.1f} s, {len(self.rows)} rows{reason}"


@dataclass
class Report:
    """All steps; whether the CPU stood in for a GPU."""

    results: list[Result]
    stand_in: bool

    def rows(self, name: str) -> list[Row]:
        """The rows of a step; none if it was not asked for."""
        return [row for result in self.results if result.name == name for row in result.rows]

    def done(self, name: str) -> bool:
        """Whether a step has done all its work."""
        return any(result.name == name and result.state == "done" for result in self.results)


@dataclass
class Goal:
    """What is wanted, what was measured, and whether that meets it; None: it is not known."""

    what: str
    measured: str
    met: bool | None


def write(report: Report, folder: Path) -> None:
    """Writes the three files, each completely or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = goals(report)
    content = {
        "stand_in": report.stand_in,
        "goals": list(map(asdict, wanted)),
        "steps": list(map(asdict, report.results)),
    }
    write_text(folder / "report.json", json.dumps(content, indent=1, allow_nan=False) + "\n")
    write_table(folder / "report.csv", ("step", "case", "quantity", "value"), tidy(report))
    write_text(folder / "README.md", page(report, wanted))


def tidy(report: Report) -> Iterable[tuple[str, str, str, float]]:
    """A line for each number: its step, the texts of its row, its name, itself."""
    for result in report.results:
        for row in result.rows:
            case = "; ".join(f"{n} {v}" for n, v in row.items() if isinstance(v, str))
            for name, value in row.items():
                if not isinstance(value, str):
                    yield result.name, case, name, value


# ---- the goals


def goals(report: Report) -> list[Goal]:
    """The goals that a GPU is needed for; a stand-in meets none and misses none."""
    found = [tests_pass(report), verified(report), same_bits(report)]
    found += [bandwidth(report, kernel) for kernel in SHARES]
    found += [host_time(report, passes) for passes in HOST_US]
    found += [
        throughput(report, column, compiled)
        for column in ("training", "inference")
        for compiled in ("no", "yes")
    ]
    for goal in found:
        goal.met = None if report.stand_in else goal.met
    return found


def tests_pass(report: Report) -> Goal:
    outcomes = [row["outcome"] for row in report.rows("tests") + report.rows("large_tests")]
    counts = {name: outcomes.count(name) for name in ("passed", "failed", "skipped")}
    measured = ", ".join(f"{count} {name}" for name, count in counts.items())
    done = report.done("tests") and report.done("large_tests")
    met = none_of(counts["failed"], done and counts["passed"] > 0)
    return Goal("the GPU tests pass", measured, met)


def verified(report: Report) -> Goal:
    rows = report.rows("verify")
    failed, count = (int(sum(row[name] for row in rows)) for name in ("failed", "comparisons"))
    met = none_of(failed, report.done("verify") and count > 0)
    return Goal("values and gradients are exact to rounding", f"{failed} of {count} are not", met)


def same_bits(report: Report) -> Goal:
    rows = report.rows("equal_runs")
    other = int(sum(v for row in rows for name, v in row.items() if name.startswith("other ")))
    runs = int(rows[0]["runs"]) if rows else 0
    met = none_of(other, report.done("equal_runs") and bool(rows))
    return Goal(
        "equal calls give equal bits: y, dx, da, db",
        f"{other} tensors differ, {len(rows)} cases of {runs} runs",
        met,
    )


def none_of(bad: int, complete: bool) -> bool | None:
    """Whether nothing is bad, known once everything was looked at."""
    if bad:
        return False
    return True if complete else None


def bandwidth(report: Report, kernel: str) -> Goal:
    yardstick, limit = SHARES[kernel]
    best = [row["GB/s"] for row in report.rows("copy") if row["operation"] == yardstick]
    case = {"kernel": kernel, "gated": "no"}
    rows = [row for row in report.rows("kernels") if row["dtype"] != "float32"]
    rates = [row["GB/s"] for row in rows if case.items() <= row.items()]
    shares = [rate / best[-1] for rate in rates if best]
    what = f"{kernel} at {limit:.0%} of the bandwidth of {yardstick} or better, 16 bits"
    return at_least(what, shares, limit, 2)


def host_time(report: Report, passes: str) -> Goal:
    rows = report.rows("calls")
    us = [row["us"] for row in rows if (row["pass"], row["function"]) == (passes, "kat")]
    met = us[0] < HOST_US[passes] if us else None
    measured = f"{us[0]:.1f} us" if us else ""
    return Goal(f"{passes} below {HOST_US[passes]} us of the host's time", measured, met)


def throughput(report: Report, column: str, compiled: str) -> Goal:
    rows = report.rows("models")
    size = rows[0]["size"] if rows else "base"
    case = (size, compiled, f"kat_{size}")
    shares = [
        1 / row[f"{column} ratio"]
        for row in rows
        if (row["size"], row["compiled"], row["model"]) == case and row["dtype"] != "float32"
    ]
    how = "compiled" if compiled == "yes" else "eager"
    what = f"{column} of kat_{size} at {VIT_SHARE} of vit_{size} or better, 16 bits, {how}"
    return at_least(what, shares, VIT_SHARE, 1)


def at_least(what: str, values: Sequence[float], limit: float, count: int) -> Goal:
    """A goal for the least of so many values."""
    if not values:
        return Goal(what, "", None)
    met = none_of(min(values) < limit, len(values) >= count)
    return Goal(what, f"{min(values):.3f}", met)


# ---- the page


def page(report: Report, wanted: Sequence[Goal]) -> str:
    """The report as Markdown."""
    unknown = "no GPU" if report.stand_in else "not measured"
    met = {True: "yes", False: "**no**", None: unknown}
    machine = report.rows("machine")
    parts = [
        f"# GPU report: {machine[0]['value'] if machine else 'unknown device'}",
        *([STAND_IN] if report.stand_in else []),
        "Written by `make gpu-report`. `report.json` has everything, `report.csv` every number.",
        "## Goals",
        table(("goal", "measured", "met"), [(g.what, g.measured, met[g.met]) for g in wanted]),
        "## Steps",
        table(
            ("step", "needed", "state", "s", "s at most", "reason"),
            [
                (r.title, "no" if r.optional else "yes", r.state, r.seconds, r.budget, r.error)
                for r in report.results
            ],
        ),
        *(section(result) for result in report.results if result.rows),
    ]
    return "\n\n".join(parts) + "\n"


def section(result: Result) -> str:
    """A step's rows; where each has passed or not, those that did not pass."""
    rows = [row for row in result.rows if row.get("outcome") != "passed"]
    columns = columns_of(rows)
    cells = table(columns, [[row.get(name, "") for name in columns] for row in rows])
    return "\n\n".join((f"## {result.title}", result.about, cells if rows else "All passed."))


def table(columns: Sequence[str], rows: Iterable[Sequence[str | float]]) -> str:
    """A table of Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(text, line))} |" for line in lines)


def text(cell: str | float) -> str:
    """A cell: numbers to four digits, one line."""
    if isinstance(cell, float):
        return f"{cell:.4g}"
    return " ".join(str(cell).split()).replace("|", "\\|")
