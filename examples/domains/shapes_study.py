"""Study: functions that one run learned, fixed in the models of other runs, in language.

    python examples/domains/shapes_study.py            # the runs of shapes.yaml that are missing
    python examples/domains/shapes_study.py --table    # no runs: the tables of what is done
    python examples/domains/shapes_study.py --table --figure shapes.svg    # the donor's functions

shapes.yaml declares arms, seeds, rate, order, the primary contrast and its interval. It is compared
with its first committed version, and a difference is refused. The runs are those of language.py
(apt-get install python3-doc), with torch.compile. A run that is stopped resumes, and one whose row
is in results/shapes.csv is not made again. results/shapes-functions.json has what the donors
learned: each rational's coefficients, and how often its inputs lay in each bin of x.
"""

from __future__ import annotations

import argparse
import json
import math
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from extra import needed
from torch import Tensor, nn

from kat.analysis import learned_activations, plot_activations
from kat.documents import write_json
from kat.nn import rationals

with needed():
    import language
    import plan
    import yaml
    from declared import refuse_changes
    from functions import average_of, functions_of, load
    from runner import Domain, Trial
    from scipy.stats import t

DECLARATION = Path(__file__).with_name("shapes.yaml")
DECLARED: dict[str, Any] = yaml.safe_load(DECLARATION.read_text(encoding="utf-8"))
ROWS, FUNCTIONS = plan.RESULTS / "shapes.csv", plan.RESULTS / "shapes-functions.json"
DOMAIN = Domain(
    doc=__doc__,
    name="shapes",
    tasks=[DECLARED["text"]],
    rates=dict.fromkeys(DECLARED["arms"], (DECLARED["rate"],)),
    steps=400,
    columns=("tokens", "curve", "windows", "torch", "threads"),
)


def main() -> None:
    """Makes the runs that are missing, or prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", action="store_true", help="make no runs: print the tables")
    parser.add_argument("--figure", type=Path, help="draw the second functions of the short donor")
    options = parser.parse_args()
    print(f"declared in {refuse_changes(DECLARATION)}")
    if options.figure:
        learned_layers = learned_activations(make_model("fixed").model.layers)
        plot_activations([a for a in learned_layers if a.name.endswith("act2")], options.figure)
    if not options.table:
        for stage in DECLARED["stages"]:
            for seed in DECLARED["seeds"]:
                for arm in stage["arms"]:
                    make(arm, seed, stage["steps"])
    for stage in DECLARED["stages"]:
        print_stage(stage["steps"], stage["arms"])


# ---- the runs


def make(arm: str, seed: int, steps: int) -> None:
    """Makes a run if its row is missing, and before it the run of its donor."""
    donor = DECLARED["arms"][arm].get("donor")
    if donor and donor not in learned():
        given = DECLARED["donors"][donor]
        _make("grkan", given["seed"], given["steps"], donor)
    _make(arm, seed, steps)


def _make(arm: str, seed: int, steps: int, donor: str | None = None) -> None:
    given = DOMAIN.parser().parse_args(["--csv", str(ROWS)])
    given.task, given.arm, given.seed, given.steps = DOMAIN.tasks, [arm], [seed], steps
    runs = DOMAIN.runs(ROWS, DECLARED["text"], steps)
    if donor is None and any(row["seed"] == str(seed) for row in runs.done(arm, "test")):
        return
    row = partial(DOMAIN.row, given, DECLARED["text"], partial(run, donor))
    runs.make({arm: [{"rate": DECLARED["rate"]}]}, [seed], row)


def run(donor: str | None, trial: Trial) -> tuple[nn.Module, dict[str, Any]]:
    """One run: the model, and what the row tells. A donor's functions are kept."""
    options = argparse.Namespace(docs=Path("/usr/share/doc"), compile=True, generate=0)
    model, row = language.run(options, trial, make_model)
    row |= {"torch": torch.__version__, "threads": torch.get_num_threads()}
    if donor is not None:
        text = language.read(trial.task, options.docs)
        windows = language.spaced_windows(text.valid, language.VALID)
        validate = partial(language.bits_per_byte, model, windows, text.bytes_of_token)
        found = functions_of(model.model.layers, validate)
        write_json(FUNCTIONS, learned() | {donor: found})
        learned.cache_clear()
    return model, row


def make_model(arm: str) -> nn.Module:
    """The model of an arm: its functions first, then the weights that are drawn for them."""
    settings = DECLARED["arms"][arm]
    model = language.make_model("gelu" if arm == "gelu" else "grkan")
    if arm == "gelu":
        return model
    donor = settings.get("donor")
    for layer, block in enumerate(model.model.layers):
        if not settings.get("first", True):
            block.mlp.act1 = nn.Identity()
        if donor:
            for name, act in rationals(block.mlp).items():
                load(act, coefficients(donor, layer, name, settings.get("average")))
        block.mlp.init_weights()
        for act in rationals(block.mlp).values():
            act.requires_grad_(settings["learns"])
    return model


# ---- the functions


@cache
def learned() -> dict[str, Any]:
    """What the donors learned so far: by donor, layer and rational."""
    found: dict[str, Any] = json.loads(FUNCTIONS.read_text()) if FUNCTIONS.exists() else {}
    return found


def coefficients(donor: str, layer: int, name: str, average: str | None) -> tuple[Tensor, Tensor]:
    """Numerator and denominator of a donor's rational, or of an average of its functions."""
    layers = learned()[donor]
    if layer >= len(layers):
        raise SystemExit(f"the donor {donor} has {len(layers)} layers, and the model more")
    if average is None:
        own = layers[layer][name]
        return torch.tensor(own["numerator"]), torch.tensor(own["denominator"])
    chosen = [layers[layer]] if average == "layer" else layers
    return average_of([other[name] for other in chosen])


# ---- the tables


def print_stage(steps: int, arms: list[str]) -> None:
    """Prints the arms of a stage, their differences from gelu, and what is missing."""
    print(f"\nbits of test a byte after {steps} steps; differences in percent of GELU's mean")
    for arm in arms:
        rows = rows_of(arm, steps)
        missing = sorted(set(map(str, DECLARED["seeds"])) - rows.keys())
        lacks = f"  missing seeds: {', '.join(missing)}" if missing else ""
        if not rows:
            print(f"{arm:13}{lacks}")
            continue
        mean = np.mean([float(row["test"]) for row in rows.values()])
        print(f"{arm:13} {mean:.4f}  {difference(rows, rows_of('gelu', steps))}{lacks}")
    for other in ("grkan", "fixed_long", "fixed_second"):
        if other in arms:
            apart = difference(rows_of("fixed", steps), rows_of(other, steps))
            print(f"fixed minus {other}: {apart}")


def rows_of(arm: str, steps: int) -> dict[str, dict[str, str]]:
    """The finished runs of an arm by seed; not those of donors, nor those that diverged."""
    rows = DOMAIN.runs(ROWS, DECLARED["text"], steps).done(arm, "test")
    seeds = set(map(str, DECLARED["seeds"]))
    return {
        row["seed"]: row
        for row in rows
        if row["seed"] in seeds and math.isfinite(float(row["valid"]))
    }


def difference(own: dict[str, dict[str, str]], other: dict[str, dict[str, str]]) -> str:
    """The mean paired difference in percent of the other's mean, with its declared interval."""
    seeds = sorted(own.keys() & other.keys())
    if len(seeds) < 2:
        return "-"
    bits = np.array([[float(rows[seed]["test"]) for seed in seeds] for rows in (own, other)])
    nats = np.array([[_windows(rows[seed]) for seed in seeds] for rows in (own, other)])
    bits_of_nats = bits[1].mean() / nats[1].mean()  # bits a byte of a window's nats
    of_seeds = bits[0] - bits[1]
    of_windows = (nats[0] - nats[1]).mean(0) * bits_of_nats
    error = math.sqrt(of_seeds.var(ddof=1) / len(seeds) + of_windows.var(ddof=1) / nats.shape[2])
    reach = t.ppf(0.975, len(seeds) - 1) * error
    mean = of_seeds.mean()
    low, middle, high = (
        100 * value / bits[1].mean() for value in (mean - reach, mean, mean + reach)
    )
    return f"{middle:+.2f} % ({low:+.2f} to {high:+.2f}, {len(seeds)} seeds)"


def _windows(row: dict[str, str]) -> list[float]:
    return [float(nats) for nats in row["windows"].split()]


if __name__ == "__main__":
    main()
