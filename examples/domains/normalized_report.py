"""The tables of the normalized study in docs/results-details.md, from its rows.

    python examples/domains/normalized_report.py                                  # prints them
    python examples/domains/normalized_report.py --page docs/results-details.md   # writes them

A difference is the one of comparisons.py: the ratio of two errors less one, in percent.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from extra import needed

with needed():
    import language
    import plan
    from comparisons import difference
    from rows import Runs
    from summary import two_digits

from kat.analysis.ablation import Estimate, markdown
from kat.files import write_text
from kat.tables import fill_tables, open_table

TASK, CANDIDATE = "python3-doc", "act2"
"""The text, and the arm that part 1 has chosen."""
PAPER = Path(__file__).parents[2] / "benchmarks/results/paper"
CELLS = ("KAT", "ViT (GELU)", "ViT (SwiGLU)")
"""The models of `kat ablate paper:models paper:digits` with which the candidate is compared."""
NAMES = {
    "plain": "GR-KAN",
    "act2": "act2 normalized",
    "act2_tails": "act2 normalized, with tails",
    "tails": "tails in act2",
    "both": "both normalized",
    "token": "act2 normalized by the token",
    "act2_frozen": "act2 normalized, both functions fixed",
    "gelu_norm": "GELU normalized, no act1",
    "gelu": "GELU",
    "swiglu": "SwiGLU",
    "gated_grkan": "gated GR-KAN",
}


def main() -> None:
    """Prints the tables, or writes them into a page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--results", type=Path, default=plan.RESULTS, help="the folder of CSV files"
    )
    parser.add_argument("--page", type=Path, help="write the tables between their marks here")
    options = parser.parse_args()
    tables = made(options.results)
    if options.page:
        write_text(options.page, fill_tables(options.page.read_text(), tables))
    else:
        print("".join(f"\n{name}\n\n{content}" for name, content in tables.items()))


def made(results: Path) -> dict[str, str]:
    """The tables by the names of the CSV files of their rows."""
    return {
        "normalized-language": candidates(results),
        "normalized-final": final(results),
        "normalized-series": tasks(results, "series"),
        "normalized-molecules": tasks(results, "molecules"),
        "normalized-images": images(results),
        "normalized-depth": depth(results),
    }


def candidates(results: Path) -> str:
    """Part 1: errors of each arm, its difference from GR-KAN, and its cost."""
    runs = _runs(results, "language", TASK, 400)
    costs = {row["arm"]: row for row in _rows(results / "normalized-cost.csv")}
    rows = []
    for arm in runs.tested(NAMES):
        cost = costs.get(arm, {})
        cells = (cost.get(name, "") for name in ("ratio", "kept_ratio"))
        valid, test = (runs.estimate(arm, name) for name in ("valid", "test"))
        rows.append([NAMES[arm], f"{valid.mean:.4f}", two_digits(test), _minus(runs, arm), *cells])
    heads = ("validation", "test", "test minus GR-KAN, %", "time of a step", "kept bytes")
    return markdown(["MLP", *heads], rows)


def final(results: Path) -> str:
    """Part 2: errors of the candidate and the others, and its difference from each."""
    runs = _runs(results, "final", TASK, 1600)
    rows = []
    for arm in runs.tested(NAMES):
        others = (_minus(runs, CANDIDATE, arm), _minus(runs, "plain", arm))
        rows.append([NAMES[arm], two_digits(runs.estimate(arm, "test")), *others])
    name = f"{NAMES[CANDIDATE]} minus this, %"
    return markdown(["MLP", "test", name, "GR-KAN minus this, %"], rows)


def tasks(results: Path, stage: str) -> str:
    """Part 3: on each task of series or molecules the candidate's error, and its differences."""
    rows = []
    for task, steps in _declared(results, stage):
        runs = _runs(results, stage, task, int(steps))
        if runs.tested([CANDIDATE]):
            error = two_digits(runs.estimate(CANDIDATE, "test"))
            rows.append([task, error, *(_minus(runs, CANDIDATE, arm) for arm in ("plain", "gelu"))])
    heads = (f"error of {NAMES[CANDIDATE]}", "minus GR-KAN, %", "minus GELU, %")
    return markdown(["task", *heads], rows)


def images(results: Path) -> str:
    """Part 3: accuracy on test images, and differences in points from `kat ablate paper`."""
    rows = []
    for task, steps in _declared(results, "images"):
        runs = _runs(results, "images", task, int(steps))
        own = {row["seed"]: 100 - float(row["test"]) for row in runs.done(CANDIDATE, "test")}
        if own:
            rows.append([task, two_digits(Estimate.of(list(own.values()))), *_points(task, own)])
    return markdown(["task", "test top-1 (%)", *(f"minus {cell}" for cell in CELLS)], rows)


def _points(task: str, own: dict[str, float]) -> Iterator[str]:
    """The mean difference in accuracy from each model of CELLS, over the seeds that both have."""
    grid = {"fashion-mnist": "models"}.get(task, task)
    others = _rows(PAPER / f"paper_{grid}.csv")
    for cell in CELLS:
        of_cell = [row for row in others if row["cell"] == cell and row["seed"] in own]
        minus = [own[row["seed"]] - float(row["test_top1"]) for row in of_cell]
        yield two_digits(Estimate.of(minus), sign=True) if minus else ""


def depth(results: Path) -> str:
    """Part 4: accuracy, and second moments of the output of the first and the last block."""
    rows = []
    for row in _rows(results / "normalized-depth.csv"):
        at_start, at_end = (row[f"moments_{when}"].split() for when in ("start", "end"))
        moments = [f"{m[0]} to {m[-1]}" if m else "" for m in (at_start, at_end)]
        accuracy = f"{100 - float(row['valid']):.2f}" if at_end else "diverged"
        rows.append([NAMES[row["arm"]], row["seed"], accuracy, *moments])
    return markdown(["MLP", "seed", "accuracy, %", "moments at the start", "after training"], rows)


def _runs(results: Path, stage: str, task: str, steps: int) -> Runs:
    return language.DOMAIN.runs(results / f"normalized-{stage}.csv", task, steps)


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with open_table(path, "a table of runs") as rows:
        return list(rows)


def _declared(results: Path, stage: str) -> Sequence[tuple[str, str]]:
    rows = _rows(results / f"normalized-{stage}.csv")
    return list(dict.fromkeys((row["task"], row["steps"]) for row in rows))


def _minus(runs: Runs, arm: str, other: str = "plain") -> str:
    found = difference("", runs.pairs(arm, other, "test")) if arm != other else None
    return f"{found.mean:+.2f} ({found.low:+.2f} to {found.high:+.2f})" if found else ""


if __name__ == "__main__":
    main()
