"""Cost of the arms of step_study.py: the time of a training step, and the bytes that it keeps.

    python examples/domains/step_cost.py                   # one thread, compiled, as in the study
    python examples/domains/step_cost.py --seconds 600 --csv step-cost.csv

The steps of all arms take turns in one process, on one batch of random tokens: forward, backward,
clipping and AdamW. ms is the median over the rounds; kept is what autograd keeps for the backward
pass, parameters apart; ms/gelu and kept/gelu are multiples of GELU's.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from extra import needed
from torch import Tensor, nn
from torch.nn import functional

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
with needed():
    import language
    import step_study
    from memory import kept_bytes
    from timing import header, keep_freed_memory, medians, print_table, take_turns, write_csv

ARMS = ("gelu", "silu", "relu2", "swiglu", "xielu", "grkan", "fixed")
COLUMNS = ("arm", "ms", "ms/gelu", "kept MB", "kept/gelu")
RUN = step_study.Run("cost", "python3-doc", "gelu", 0, "adamw", 400, 0.002, 1.0)
"""A run for the optimizer, which reads its kind, its rate and the rate of fc2."""


class Loss(nn.Module):
    """The cross entropy of windows (n, CONTEXT + 1) under a compiled Llama."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = torch.compile(model)

    def forward(self, windows: Tensor) -> Tensor:
        logits = self.model(input_ids=windows[:, :-1]).logits
        return functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())


def main() -> None:
    """Measures all arms and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=120, help="of timing, by default 120")
    parser.add_argument("--csv", type=Path, help="also write the table there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    print(header("cpu"))
    torch.manual_seed(0)
    windows = torch.randint(language.VOCABULARY, (language.BATCH, language.CONTEXT + 1))
    functions = donated_functions()
    steps, kept = {}, {}
    for arm in ARMS:
        print(f"compiles {arm}", file=sys.stderr)
        model = step_study.make_llama(arm, functions)
        loss = Loss(model)
        steps[arm] = training_step(loss, windows, step_study.make_optimizers(RUN, model))
        steps[arm]()
        kept[arm] = kept_bytes(loss, windows) / 1e6
    times = medians(take_turns(steps, options.seconds, "cpu"))
    rows = []
    for arm in ARMS:
        time, memory = times[arm], kept[arm]
        rows.append([arm, time, time / times["gelu"], memory, memory / kept["gelu"]])
    print_table(COLUMNS, rows)
    if options.csv:
        write_csv(options.csv, "cpu", COLUMNS, rows)


def donated_functions() -> Any:
    """The functions of the first donor, for the arm that has them fixed."""
    rows = step_study.read_rows()
    donor = next(row for run, row in rows.items() if run.arm == "donor")
    return json.loads(donor["functions"])


def training_step(
    loss: Loss, windows: Tensor, optimizers: list[torch.optim.Optimizer]
) -> Callable[[], None]:
    """A call that makes one step of training, as training.py does."""

    def run() -> None:
        loss.zero_grad()
        loss(windows).backward()
        nn.utils.clip_grad_norm_(loss.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()

    return run


if __name__ == "__main__":
    main()
