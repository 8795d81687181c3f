"""Study: does h = s F(x / s), a rational of the normalized group, help where GR-KAN does?

    python examples/domains/normalized.py                                     # part 1
    python examples/domains/normalized.py --stage final --candidate act2      # then 2
    python examples/domains/normalized.py --stage series molecules --candidate act2
    python examples/domains/normalized.py --table                             # of what is done

s is the root mean square of the channels of x's group in one token, sqrt(mean(x^2) + 1e-6), so that
F sees inputs of second moment 1, and h is homogeneous of degree one but for the 1e-6. "Tails" adds
c_1 |x| + ... + c_5 |x|^5 to P, c = 0 at the start, so that F's two tails are free. All arms of this
file are plain PyTorch, GR-KAN too, and have the parameters of GR-KAN (and 5 a group with tails).

Declared before the first run; what is measured stands in results/normalized-*.csv.

1. language, 400 steps, rates 1e-3, 2e-3, 4e-3 for every arm, chosen with seed 0; seeds 1, 2, 3.
   Chosen by validation, beside plain, which is GR-KAN.
     act2          the second rational of each MLP is normalized
     act2_tails    the same, with tails
     tails         tails in the second rational, which is not normalized
     both          both rationals are normalized
     token         as act2, with s over all channels of the token
     act2_frozen   as act2, F stays Swish: what the normalization gives alone
     gelu_norm     GELU in the place of F, act1 away: whether a rational is needed
2. The candidate is the arm of the least mean validation error among the first five, or act2, the
   simplest, if its mean is within 0.1 % of that. Test, once: 1,600 steps, seeds 11 to 15, beside
   plain, gelu, swiglu and gated_grkan; each with the rate that it has from seed 0 at 400 steps.
   Won: at least 0.5 % fewer bits of test a byte than the best of the four, the 95 % interval of
   the paired differences excluding 0, and at most 1.10 of plain's seconds.
3. The candidate beside plain and gelu on the series and molecules of plan.yaml, with its steps,
   rates and seeds. On Fashion-MNIST, 20 epochs, seeds 0 to 4, test images, rates tuned as by
   `kat ablate paper:models`, beside its committed rows of KAT, ViT and SwiGLU; and on digits.
   No loss beyond the interval is asked; a gain is reported.
4. Depth: 24 blocks without norms, as in `kat ablate paper:depth`, seeds 0 and 1, three epochs: the
   second moment of each block's output at the start and after training, and the loss.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from extra import needed
from torch import Tensor, nn
from torch.nn import functional

with needed():
    import language
    import layers
    import molecules
    import plan
    import series
    from runner import Domain, Trial

    import kat

Run = Callable[[Trial], tuple[nn.Module | None, Any]]
CANDIDATES = ("act2", "act2_tails", "tails", "both", "token")
CONTROLS = ("act2_frozen", "gelu_norm")
TEXT = ["python3-doc"]
EPS = 1e-6


class NormalizedRational(nn.Module):
    """h = s F(x / s) with F(x) = (P(x) + sum_i c_i |x|^i) / (1 + sum_j |b_j| |x|^j).

    Args:
        act: the rational whose groups and coefficients it starts with, of form A.
        over: the channels of s: ``"group"``, ``"token"``, or None, s = 1.
        tails: whether c is learned.
    """

    def __init__(self, act: kat.GroupRational, over: str | None, *, tails: bool = False) -> None:
        super().__init__()
        self.weight_numerator = nn.Parameter(act.weight_numerator.detach().clone())
        self.weight_denominator = nn.Parameter(act.weight_denominator.detach().clone())
        self.groups, self.over = len(self.weight_denominator), over
        self.weight_tails = nn.Parameter(torch.zeros(self.groups, 5)) if tails else None

    def no_weight_decay(self) -> set[str]:
        """The names of the coefficients."""
        return {name for name, _ in self.named_parameters()}

    def forward(self, x: Tensor) -> Tensor:
        """x (..., channels) to the same shape."""
        grouped = x.unflatten(-1, (self.groups, -1))
        if self.over is None:
            return self._f(grouped).flatten(-2)
        s = rms(grouped, -1 if self.over == "group" else (-2, -1))
        return (s * self._f(grouped / s)).flatten(-2)

    def _f(self, x: Tensor) -> Tensor:
        top, size = polynomial(x, self.weight_numerator.expand(self.groups, -1)), x.abs()
        if self.weight_tails is not None:
            top = top + size * polynomial(size, self.weight_tails)
        return top / (1 + size * polynomial(size, self.weight_denominator.abs()))


class NormalizedGELU(nn.Module):
    """h = s GELU(x / s), s over groups of channels."""

    def forward(self, x: Tensor) -> Tensor:
        """x (..., channels) to the same shape."""
        grouped = x.unflatten(-1, (layers.GROUPS, -1))
        s = rms(grouped, -1)
        return (s * functional.gelu(grouped / s)).flatten(-2)


def rms(x: Tensor, dim: Any) -> Tensor:
    """sqrt(mean(x^2) + 1e-6), the dimensions kept."""
    return (x.square().mean(dim, keepdim=True) + EPS).sqrt()


def polynomial(x: Tensor, coefficients: Tensor) -> Tensor:
    """c_0 + c_1 x + ... by Horner's scheme: x (..., groups, channels), coefficients (groups, n)."""
    *rest, last = coefficients[..., None].unbind(-2)
    value = last.expand_as(x)
    for coefficient in reversed(rest):
        value = value * x + coefficient
    return value


def mlp(arm: str, width: int, hidden: int) -> nn.Module:
    """The MLP of an arm of this study, or of :mod:`layers`."""
    if arm == "gelu_norm":
        return layers.plain(NormalizedGELU(), width, hidden)
    if arm not in ("plain", *CANDIDATES, *CONTROLS):
        return layers.mlp(arm, width, hidden)
    made = layers.mlp("grkan", width, hidden)
    over = {"plain": None, "tails": None, "token": "token"}.get(arm, "group")
    made.act1 = NormalizedRational(made.act1, "group" if arm == "both" else None)
    made.act2 = NormalizedRational(made.act2, over, tails=arm.endswith("tails"))
    if arm == "act2_frozen":
        made.act1.requires_grad_(False)
        made.act2.requires_grad_(False)
    return made


def main() -> None:
    """Makes the runs that the CSV files lack, and prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stage", nargs="+", choices=list(STAGES), default=["language"])
    parser.add_argument("--candidate", choices=CANDIDATES, help="the arm that part 1 has chosen")
    parser.add_argument("--table", action="store_true", help="make no runs: print the tables")
    parser.add_argument(
        "--results", type=Path, default=plan.RESULTS, help="the folder of CSV files"
    )
    parser.add_argument("--steps", type=int, help="another number of steps, for a first look")
    options = parser.parse_args()
    if options.stage != ["language"] and options.candidate is None:
        parser.error("--candidate: name the arm that part 1 has chosen")
    for module in (language, series, molecules):
        module.mlp = mlp
    for stage in options.stage:
        STAGES[stage](options)


def _make(
    options: argparse.Namespace, stage: str, like: Domain, tasks: Sequence[str],
    rates: Mapping[str, Sequence[float]], seeds: Sequence[int], steps: int, run: Run,
) -> Domain:  # fmt: skip
    """Makes the missing runs of a stage, and prints its table."""
    references = {arm: "plain" for arm in rates if arm != "plain"}
    made = replace(like, name=f"normalized-{stage}", rates=rates, references=references)
    given = made.parser().parse_args(["--csv", str(options.results / f"{made.name}.csv")])
    given.task, given.seed, given.steps = tasks, seeds, options.steps or steps
    given.table = options.table
    made.main(given, run)
    return made


def _language(options: argparse.Namespace) -> None:
    rates = dict.fromkeys(("plain", *CANDIDATES, *CONTROLS), (1e-3, 2e-3, 4e-3))
    _make(options, "language", language.DOMAIN, TEXT, rates, [1, 2, 3], 400, _of_text)


def _final(options: argparse.Namespace) -> None:
    searched = language.DOMAIN.runs(options.results / "normalized-language.csv", TEXT[0], 400)
    earlier = language.DOMAIN.runs(plan.RESULTS / "language.csv", TEXT[0], 400)
    rates = {arm: [searched.best_rates(arm)["rate"]] for arm in (options.candidate, "plain")}
    others = ("gelu", "swiglu", "gated_grkan")
    rates |= {arm: [earlier.best_rates(arm)["rate"]] for arm in others}
    seeds = [11, 12, 13, 14, 15]
    _make(options, "final", language.DOMAIN, TEXT, rates, seeds, 1600, _of_text)


def _domain(options: argparse.Namespace, module: Any) -> None:
    like, declared = module.DOMAIN, plan.PLAN[module.DOMAIN.name]
    rates = dict.fromkeys((options.candidate, "plain", "gelu"), like.rates["gelu"])
    tasks, seeds, steps = (declared[name] for name in ("tasks", "seeds", "steps"))
    _make(options, like.name, like, tasks, rates, seeds, steps, module.run)


_of_text = partial(
    language.run, argparse.Namespace(docs=Path("/usr/share/doc"), compile=False, generate=0)
)
STAGES: dict[str, Callable[[argparse.Namespace], None]] = {
    "language": _language,
    "final": _final,
    "series": partial(_domain, module=series),
    "molecules": partial(_domain, module=molecules),
}


if __name__ == "__main__":
    main()
