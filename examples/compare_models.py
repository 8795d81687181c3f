"""Trains several models under one recipe and several seeds, and puts the results side by side.

    python examples/compare_models.py --config digits \
        --models kat_micro_patch2_8 vit_micro_patch2_8 --seeds 0 1 2 --out runs/compare

Writes results.csv, learning_curves.png, the activations of each KAT, and a folder for each run.
Runs that are finished with the same settings are kept, so that an interrupted comparison continues
where it stopped.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from kat.analysis import count, learned_activations, plot_activations, plot_learning_curves
from kat.analysis.ablation import Estimate
from kat.cli.errors import run_command
from kat.cli.options.training_settings import TrainingParser, parse_training
from kat.models import load_model, rational_parameter_names
from kat.tables import write_table
from kat.training import read_history, read_settings, settings_to_keep, train
from kat.training.record.provenance import PROVENANCE
from kat.training.settings.recipes import config_from

COLUMNS = ("model", "seed", "top1", "parameters", "flops", "seconds")


def main() -> None:
    """Runs the comparison that the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        epilog="Further options go to 'kat train', e.g. --epochs 5.",
    )
    parser.add_argument("--config", default="digits", help="a recipe's name, or a YAML file")
    parser.add_argument("--models", nargs="+", required=True, help="the first is compared to each")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--out", type=Path, default=Path("runs/compare"))
    parser.add_argument("--overwrite", action="store_true", help="train finished runs again")
    options, overrides = parser.parse_known_args()
    rows = [
        run(options, model, seed, overrides) for seed in options.seeds for model in options.models
    ]
    write_table(options.out / "results.csv", (*COLUMNS, *PROVENANCE), rows)
    draw(options)
    report(rows, options.models)
    print(f"everything is in {options.out}")


def run(
    options: argparse.Namespace, model: str, seed: int, overrides: Sequence[str]
) -> dict[str, Any]:
    """Trains one model with one seed, unless that is done, and returns its row of the table."""
    out = options.out / f"{model}-seed{seed}"
    arguments = ["--config", options.config, *overrides, "--model.name", model]
    arguments += ["--seed", str(seed), "--out", str(out), "--overwrite", "true"]
    config = config_from(parse_training(TrainingParser(), arguments)[0])
    done = out / "summary.json"
    if options.overwrite or not done.is_file() or read_settings(out) != settings_to_keep(config):
        print(f"{model}, seed {seed}", flush=True)
        train(config)
    summary = json.loads(done.read_text())
    trained, record = load_model(out)
    cost = count(trained, record.input_size)
    return {
        "model": model,
        "seed": seed,
        "top1": summary["top1"],
        "parameters": cost.parameters,
        "flops": cost.flops,
        "seconds": summary["seconds"],
        **{name: summary.get(name) for name in PROVENANCE},
    }


def draw(options: argparse.Namespace) -> None:
    """Draws the learning curves of all runs, and the activations of the KATs of the first seed."""
    histories = {
        model: [read_history(options.out / f"{model}-seed{seed}") for seed in options.seeds]
        for model in options.models
    }
    plot_learning_curves(histories, options.out / "learning_curves.png")
    for model in options.models:
        trained, _ = load_model(options.out / f"{model}-seed{options.seeds[0]}")
        if rational_parameter_names(trained):
            plot_activations(learned_activations(trained), options.out / f"activations-{model}.png")


def report(rows: Sequence[dict[str, Any]], models: Sequence[str]) -> None:
    """Prints the mean over the seeds, and the first model minus each other one, paired by seed."""
    by_model = {model: [row for row in rows if row["model"] == model] for model in models}
    seeds = len(by_model[models[0]])
    title = f"mean of {seeds} seed{'s ± 95 % interval' * (seeds > 1)}"
    table = Table(title=title, title_justify="left")
    for name in ("model", "top-1 (%)", "parameters", "MFLOPs", "seconds"):
        table.add_column(name, justify="left" if name == "model" else "right")
    for model, runs in by_model.items():
        table.add_row(
            model,
            Estimate.of([row["top1"] for row in runs]).text(),
            f"{runs[0]['parameters']:,}",
            f"{runs[0]['flops'] / 1e6:.2f}",
            f"{statistics.mean(row['seconds'] for row in runs):.0f}",
        )
    Console().print(table)
    first, *others = models
    for other in others:
        pairs = zip(by_model[first], by_model[other], strict=True)
        differences = [mine["top1"] - theirs["top1"] for mine, theirs in pairs]
        print(f"{first} minus {other}: {Estimate.of(differences).text()} points of top-1")


if __name__ == "__main__":
    raise SystemExit(run_command(main))
