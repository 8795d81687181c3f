"""Study: the two functions that come with the library, beside GELU, on seeds that they do not come from.

    python examples/domains/bank_study.py           # the runs that are missing, and the table
    python examples/domains/bank_study.py --table   # no runs

The runs are those of the primary contrast of step.yaml: 1,600 steps with AdamW, the Llama of
language.py, python3-doc, the same windows of test, and the settings that GELU and fixed functions
chose in 2-tuning. The seeds are new: the functions are averages over the donors of seeds 61 to 66.
Rows are in results/step-bank.csv. A second process beside the first takes other runs.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import step_study
import torch
from functions import load
from runner import Trial

import kat
from kat.training.record.provenance import provenance

with step_study.needed():
    import language
    import plan
    import transformers

SEEDS = (67, 68)
BANK = Path(kat.__file__).parent / "models" / "functions.json"
step_study.ROWS = plan.RESULTS / "step-bank.csv"


def main() -> None:
    """Makes the runs that are missing; prints the contrasts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", action="store_true", help="make no runs")
    parser.add_argument("--docs", type=Path, default=Path("/usr/share/doc"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.table:
        for seed in SEEDS:
            for arm in ("bank", "gelu"):
                run = step_study.Run("bank", "python3-doc", arm, seed, "adamw", 1600, 0.0028, 1.0)
                with step_study.locked(step_study.name_of(run)) as free:
                    if free and run not in step_study.read_rows():
                        step_study.append(row_of(run, options))
    percents = step_study.percents("bank", "bank", "gelu", step_study.read_rows())
    for seed, percent in percents.items():
        print(f"seed {seed}: bank minus gelu {percent:+.2f} %")


def row_of(run: step_study.Run, options: argparse.Namespace) -> dict[str, Any]:
    """Makes a run; its row."""
    print(step_study.name_of(run), flush=True)
    torch.manual_seed(run.seed)
    device = torch.device("cpu")
    checkpoint = step_study.checkpoint(run)
    trial = Trial(run.task, run.arm, run.rate, run.seed, run.steps, device, checkpoint, False)
    given = argparse.Namespace(docs=options.docs, compile=True, generate=0)
    optimizers = partial(step_study.make_optimizers, run)
    model, row = language.run(given, trial, make_model, step_study.new_windows, optimizers)
    row["curve"] = " ".join(f"{when}:{error:.4f}" for when, error in row["curve"])
    row["parameters"] = sum(p.numel() for p in model.parameters())
    row["transformers"] = transformers.__version__
    checkpoint.unlink(missing_ok=True)
    return provenance(device) | run._asdict() | row


def make_model(arm: str) -> Any:
    """GELU, or the functions of the library: one in the first block, the other after it."""
    if arm == "gelu":
        return step_study.make_llama(arm)
    model = language.make_model("gelu")
    stored = json.loads(BANK.read_text(encoding="utf-8"))["language"]
    for layer, block in enumerate(model.model.layers):
        own = stored["others" if layer else "first"]
        mlp = kat.GRKANMlp(language.WIDTH, language.HIDDEN, num_groups=1, first_init="none")
        coefficients = torch.tensor([own["numerator"]]), torch.tensor([own["denominator"]])
        load(mlp.act2, coefficients)
        mlp.init_weights()
        mlp.act2.requires_grad_(False)
        block.mlp = mlp
    return model


if __name__ == "__main__":
    main()
