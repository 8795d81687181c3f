"""The tables of the normalized study in docs/results-details.md, from its rows.

    python examples/domains/normalized_report.py                                  # prints them
    python examples/domains/normalized_report.py --page docs/results-details.md   # writes them

A difference is the ratio of two errors minus one, in percent, with the interval of comparisons.py.
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
    from normalized import CANDIDATE
    from rows import Runs
    from summary import two_digits

from kat.analysis.ablation import Estimate, markdown
from kat.files import write_text
from kat.tables import fill_tables, open_table

TASK = "python3-doc"
PAPER = Path(__file__).parents[2] / "benchmarks/results/paper"
COSTS = ("step, GR-KAN = 1", "kept bytes, GR-KAN = 1", "seeds", "core-hours")
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
    """Part 1: by arm, errors, the difference from GR-KAN, the candidate's from the arm, costs."""
    runs = _runs(results, "language", TASK, 400)
    rows = []
    for arm in runs.tested(NAMES):
        valid, test = (runs.estimate(arm, name) for name in ("valid", "test"))
        minus = (_minus(runs, arm), _minus(runs, CANDIDATE, arm))
        errors = (f"{valid.mean:.4f}", two_digits(test))
        rows.append([NAMES[arm], *errors, *minus, *_costs(results, runs, arm)])
    heads = ("validation", "test", "minus GR-KAN, %", f"{NAMES[CANDIDATE]} minus this, %")
    return markdown(["MLP", *heads, *COSTS], rows)


def final(results: Path) -> str:
    """Part 2: by arm, errors, the differences of the candidate and GR-KAN from the arm, costs."""
    runs = _runs(results, "final", TASK, 1600)
    rows = []
    for arm in runs.tested(NAMES):
        others = (_minus(runs, CANDIDATE, arm), _minus(runs, "plain", arm))
        test = two_digits(runs.estimate(arm, "test"))
        rows.append([NAMES[arm], test, *others, *_costs(results, runs, arm)])
    heads = ("test", f"{NAMES[CANDIDATE]} minus this, %", "GR-KAN minus this, %")
    return markdown(["MLP", *heads, *COSTS], rows)


def tasks(results: Path, stage: str) -> str:
    """Part 3: on each task of series or molecules the candidate's error, and its differences."""
    rows = []
    for task, steps in _found(results, stage):
        runs = _runs(results, stage, task, int(steps))
        if runs.tested([CANDIDATE]):
            error = two_digits(runs.estimate(CANDIDATE, "test"))
            rows.append([task, error, *(_minus(runs, CANDIDATE, arm) for arm in ("plain", "gelu"))])
    heads = (f"error of {NAMES[CANDIDATE]}", "minus GR-KAN, %", "minus GELU, %")
    return markdown(["task", *heads], rows)


def images(results: Path) -> str:
    """Part 3: accuracy on test images, and differences in points from `kat ablate paper`."""
    rows = []
    for task, steps in _found(results, "images"):
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
        valid, loss = (float(row[name]) for name in ("valid", "loss"))
        ended = [f"{100 - valid:.2f}", f"{loss:.3f}"] if at_end else ["diverged", ""]
        rows.append([NAMES[row["arm"]], row["seed"], *ended, *moments])
    heads = ("held-out accuracy, %", "loss", "moments at the start", "after training")
    return markdown(["MLP", "seed", *heads], rows)


def _costs(results: Path, runs: Runs, arm: str) -> list[str]:
    """The cells of COSTS; the first two are empty for an arm without a step in plain PyTorch."""
    measured = {row["arm"]: row for row in _rows(results / "normalized-cost.csv")}
    own = measured.get(arm) if arm != "gated_grkan" else None
    cells = [f"{float(own[name]):.2f}" if own else "" for name in ("ratio", "kept_ratio")]
    tests = runs.done(arm, "test")
    seconds = sum(float(row["seconds"]) for row in (*tests, *runs.done(arm, "tune")))
    return [*cells, str(len(tests)), f"{seconds / 3600:.2f}"]


def _runs(results: Path, stage: str, task: str, steps: int) -> Runs:
    return language.DOMAIN.runs(results / f"normalized-{stage}.csv", task, steps)


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with open_table(path, "a table of runs") as rows:
        return list(rows)


def _found(results: Path, stage: str) -> Sequence[tuple[str, str]]:
    rows = _rows(results / f"normalized-{stage}.csv")
    return list(dict.fromkeys((row["task"], row["steps"]) for row in rows))


def _minus(runs: Runs, arm: str, other: str = "plain") -> str:
    found = difference("", runs.pairs(arm, other, "test")) if arm != other else None
    return f"{found.mean:+.2f} ({found.low:+.2f} to {found.high:+.2f})" if found else ""


if __name__ == "__main__":
    main()
