"""Seconds of a training step, and kept bytes, of the arms of normalized_study.py in eager PyTorch.

    python examples/domains/normalized_cost.py

The language models of language.py take turns. In each turn a model makes two training steps
(forward, backward, AdamW), and the second one is timed. Kept bytes are the memory that one MLP
holds for its backward pass, without its parameters. The table is written to normalized-cost.csv.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
from extra import needed
from torch.nn import functional

import kat

with needed():
    import language
    import plan
    from normalized import CANDIDATES, mlp

    from kat.analysis import activation_memory
    from kat.tables import aligned, write_table
    from kat.training.provenance import PROVENANCE, provenance

ARMS = ("plain", "grkan", *CANDIDATES, "gelu_norm", "gelu", "swiglu", "gated_grkan")
COLUMNS = ("arm", "seconds", "ratio", "kept_bytes", "kept_ratio")


def main() -> None:
    """Measures all arms in turns, prints the table, and writes it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20, help="steps of each arm")
    parser.add_argument(
        "--results", type=Path, default=plan.RESULTS, help="the folder of CSV files"
    )
    options = parser.parse_args()
    language.mlp = mlp
    models = {arm: language.make_model(arm) for arm in ARMS}
    optimizers = {
        arm: torch.optim.AdamW(kat.param_groups(model, 1e-3)) for arm, model in models.items()
    }
    times: dict[str, list[float]] = {arm: [] for arm in ARMS}
    tokens = torch.randint(language.VOCABULARY, (language.BATCH, language.CONTEXT + 1))

    def step(arm: str) -> float:
        start = time.perf_counter()
        logits = models[arm](input_ids=tokens[:, :-1]).logits
        functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
        optimizers[arm].step()
        optimizers[arm].zero_grad()
        return time.perf_counter() - start

    for _ in range(options.rounds):
        for arm, taken in times.items():
            step(arm)  # the first one allocates its memory anew
            taken.append(step(arm))
    seconds = {arm: statistics.median(taken) for arm, taken in times.items()}
    shape = (language.CONTEXT, language.WIDTH)
    kept = {
        arm: activation_memory(model.model.layers[0].mlp, shape).per_image * language.BATCH
        for arm, model in models.items()
    }
    rows = [
        [arm, f"{seconds[arm]:.4f}", f"{seconds[arm] / seconds['plain']:.3f}",
         str(kept[arm]), f"{kept[arm] / kept['plain']:.3f}"]
        for arm in ARMS
    ]  # fmt: skip
    print(*aligned([COLUMNS, *rows]), sep="\n")
    made_by = provenance(torch.device("cpu"))
    own = [made_by[name] for name in PROVENANCE]
    path = options.results / "normalized-cost.csv"
    write_table(path, (*COLUMNS, *PROVENANCE), [[*row, *own] for row in rows])


if __name__ == "__main__":
    main()
