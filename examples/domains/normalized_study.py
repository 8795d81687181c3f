"""Study: does h = s F(x / s), a rational of the normalized group, help where GR-KAN does?

    python examples/domains/normalized_study.py                                     # part 1
    python examples/domains/normalized_study.py --stage final                       # then 2
    python examples/domains/normalized_study.py --stage series molecules images depth
    python examples/domains/normalized_study.py --stage final --table          # prints its rows

s is the root mean square of the channels of x's group in one token, sqrt(mean(x^2) + 1e-6), so that
F sees inputs of second moment 1, and h(c x) = c h(x) for c > 0, apart from the 1e-6. "Tails" adds
c_1 |x| + ... + c_5 |x|^5 to P, c = 0 at the start, so that F may differ on its two sides. The arms
of normalized.py, GR-KAN included, run in plain PyTorch and have the parameters of GR-KAN (and 5 a
group with tails). The gated GR-KAN of part 2 and the KAT of part 3's images have fused kernels.
Rows are in results/normalized-*.csv, and the seconds of a step in normalized-cost.csv
(normalized_cost.py). The study uses the data of language.py, series.py and molecules.py, and
Debian's package dataset-fashion-mnist.

Declared before the first run (git show de39bf3a:examples/domains/normalized.py), here with the
changes that are listed below:

1. language, 400 steps, rates 1e-3, 2e-3, 4e-3 for every arm, chosen with seed 0; seeds 1, 2, 3.
   Chosen by validation, beside plain, which is GR-KAN.
     act2          the second rational of each MLP is normalized
     act2_tails    the same, with tails
     tails         tails in the second rational, which is not normalized
     both          both rationals are normalized
     token         as act2, with s over all channels of the token
     act2_frozen   as act2, both functions fixed at the identity and Swish: what the
                   normalization gives alone
     gelu_norm     GELU in the place of F, no act1: whether a rational is needed
2. The candidate is the arm of the least mean validation error among the first five, or act2, the
   simplest, if its mean is within 0.1 % of that. Test, once: 1,600 steps, seeds 11 to 15, beside
   plain, gelu, swiglu and gated_grkan; each with the rate that it has from seed 0 at 400 steps.
   Won: at least 0.5 % fewer bits of test a byte than the best of the four, the 95 % interval of
   the paired differences excluding 0, and at most 1.10 of plain's seconds a step.
3. The candidate beside plain and gelu on the series and molecules of plan.yaml, with its steps,
   rates and seeds. On Fashion-MNIST, 20 epochs, seeds 0 to 4, test images, rates tuned as by
   `kat ablate paper:models` (but with seed 0), beside its committed rows of KAT, ViT and SwiGLU;
   and on digits, 40 epochs, beside the rows of `paper:digits`.
   It must not be worse by more than the interval; a gain is reported.
4. Depth: 24 blocks without norms, as in `kat ablate paper:depth`, seeds 0 and 1, three epochs: the
   second moment of each block's output at the start and after training, and the loss.

Changed since, each time before the runs that it concerns:

- 718dc69a: language trains under torch.compile; seconds a step are measured apart, in eager mode.
- 57f27c50: |b| has slope 1 at b = 0, as in GR-KAN. The 15 runs before it had slope 0 there; they
  were discarded.
- 6dbae44d: images choose their rate with seed 0.
- eb216fdd: digits train for 40 epochs, as in the committed rows.
- baefb59a: images train under torch.compile.

After its results were known, depth was run again: its moments had been over test images, and the
loss was missing.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from extra import needed
from torch import nn

with needed():
    import language
    import molecules
    import normalized_images
    import plan
    import series
    from normalized import CANDIDATE, CANDIDATES, CONTROLS, mlp
    from runner import Domain, Trial

Run = Callable[[Trial], tuple[nn.Module | None, Any]]
TEXT = ["python3-doc"]


def main() -> None:
    """Makes the runs that the CSV files lack, and prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stage", nargs="+", choices=list(STAGES), default=["language"])
    parser.add_argument("--table", action="store_true", help="make no runs: print the tables")
    parser.add_argument(
        "--results", type=Path, default=plan.RESULTS, help="the folder of CSV files"
    )
    options = parser.parse_args()
    for module in (language, series, molecules):
        module.mlp = mlp
    for stage in options.stage:
        STAGES[stage](options)


def _make(
    options: argparse.Namespace, stage: str, like: Domain, tasks: Sequence[str],
    rates: Mapping[str, Sequence[float]], seeds: Sequence[int], steps: int, run: Run,
) -> None:  # fmt: skip
    """Makes the missing runs of a stage, and prints its table."""
    references = {arm: "plain" for arm in rates if arm != "plain"}
    made = replace(like, name=f"normalized-{stage}", rates=rates, references=references)
    given = made.parser().parse_args(["--csv", str(options.results / f"{made.name}.csv")])
    given.task, given.seed, given.steps, given.table = tasks, seeds, steps, options.table
    made.main(given, run)


def _language(options: argparse.Namespace) -> None:
    rates = dict.fromkeys(("plain", *CANDIDATES, *CONTROLS), (1e-3, 2e-3, 4e-3))
    _make(options, "language", language.DOMAIN, TEXT, rates, [1, 2, 3], 400, _of_text)


def _final(options: argparse.Namespace) -> None:
    searched = language.DOMAIN.runs(options.results / "normalized-language.csv", TEXT[0], 400)
    earlier = language.DOMAIN.runs(plan.RESULTS / "language.csv", TEXT[0], 400)
    rates = {arm: [searched.best_rates(arm)["rate"]] for arm in (CANDIDATE, "plain")}
    others = ("gelu", "swiglu", "gated_grkan")
    rates |= {arm: [earlier.best_rates(arm)["rate"]] for arm in others}
    seeds = [11, 12, 13, 14, 15]
    _make(options, "final", language.DOMAIN, TEXT, rates, seeds, 1600, _of_text)


def _domain(options: argparse.Namespace, module: Any) -> None:
    like, declared = module.DOMAIN, plan.PLAN[module.DOMAIN.name]
    rates = dict.fromkeys((CANDIDATE, "plain", "gelu"), like.rates["gelu"])
    tasks, seeds, steps = (declared[name] for name in ("tasks", "seeds", "steps"))
    like = replace(like, columns=("curve",))
    _make(options, like.name, like, tasks, rates, seeds, steps, module.run)


def _images(options: argparse.Namespace) -> None:
    like, rates = normalized_images.IMAGE_DOMAIN, {CANDIDATE: (1e-3, 2e-3, 4e-3)}
    for task, (epochs, _) in normalized_images.EPOCHS.items():
        _make(options, "images", like, [task], rates, range(5), epochs, normalized_images.run)


def _depth(options: argparse.Namespace) -> None:
    like, rates = normalized_images.DEPTH_DOMAIN, {CANDIDATE: (2e-3,), "plain": (2e-3,)}
    _make(options, "depth", like, like.tasks, rates, [0, 1], 3, normalized_images.run_deep)


_of_text = partial(
    language.run, argparse.Namespace(docs=Path("/usr/share/doc"), compile=True, generate=0)
)
STAGES: dict[str, Callable[[argparse.Namespace], None]] = {
    "language": _language,
    "final": _final,
    "series": partial(_domain, module=series),
    "molecules": partial(_domain, module=molecules),
    "images": _images,
    "depth": _depth,
}


if __name__ == "__main__":
    main()
