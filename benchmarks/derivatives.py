"""How large the first three derivatives of the rational are, and where they jump; two figures.

    python benchmarks/derivatives.py --out docs/figures --csv benchmarks/results/derivatives.csv

Three tables: the presets by degree and form, against the function that each stands for; other
coefficients, such as training leaves; and the rounding error of float32, while all else is in
float64. ``--checkpoint RUN`` adds the coefficients of a model that was trained here.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from timing import header, print_table, write_csv

import kat
from kat.analysis.figures.save import save_figure
from kat.analysis.verify.derivatives import TARGETS, Array, derivatives, kinks
from kat.models import load_model
from kat.nn import preset

DEGREES = (3, 5, 7, 9)
"""Degrees m of the numerator; that of the denominator is m - 1."""
FORMS = ("A", "B")
WIDTH = 3.0
"""Sizes are taken over [-3, 3], where the presets were fitted."""
POINTS = np.linspace(-WIDTH, WIDTH, 6001)
DRAWS = 1000
NUMERATOR_SPREAD, DENOMINATOR_SPREAD = 0.03, 0.02
"""How far training moves coefficients of degree (5, 4): about what --checkpoint shows."""
PUBLISHED = (3.5e-2, 1.96, -7.2e-4, 6.9e-2, 1.7e-3, 7.0e-2)
"""Numerator of the first rational of the authors' KAT-T; its b_j lie between 1e-6 and 3e-2."""
BEYOND = ("RMS of F''", "max |F''|", "max |F'''|", "kinks", "jump of F'", "jump of F''")


class Rational(NamedTuple):
    """The coefficients of one function."""

    numerator: tuple[float, ...]
    denominator: tuple[float, ...]
    form: str


def main() -> None:
    """Prints the tables, and writes figures and CSV where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="folder for the figures")
    parser.add_argument(
        "--csv",
        type=Path,
        metavar="NAME.csv",
        help="write the tables: NAME.csv, NAME_trained.csv and NAME_float32.csv",
    )
    parser.add_argument("--checkpoint", type=Path, help="a run of kat train, or a checkpoint")
    parser.add_argument("--degrees", nargs="+", type=int, default=DEGREES, help="m of (m, m - 1)")
    parser.add_argument("--draws", type=int, default=DRAWS, help="draws of random coefficients")
    options = parser.parse_args()
    degrees = [(m, m - 1) for m in options.degrees]
    print(header("cpu"))
    print(
        f"\npresets: largest on [-{WIDTH:g}, {WIDTH:g}], error against the function, jump at x = 0"
    )
    show(*presets_table(degrees), options.csv)
    print(f"\nafter training: median (95 % of the functions below), {options.draws} draws")
    show(("coefficients", "form", *BEYOND), list(beyond_table(options)), options.csv, "_trained")
    print("\nfloat32: largest rounding error, as a share of the derivative's largest value")
    columns = ("function", "degree", "F", "F'", "F''", "F'''")
    show(columns, list(rounding_table(degrees)), options.csv, "_float32")
    if options.out:
        save_figure(presets_figure(degrees[:3]), options.out / "derivatives-presets.svg")
        save_figure(kinks_figure(), options.out / "derivatives-kinks.svg")


def show(
    columns: Sequence[str], rows: list[list[str | float]], csv: Path | None, ending: str = ""
) -> None:
    """Prints a table, and writes it beside the first one's file if that is given."""
    print_table(columns, rows)
    if csv:
        write_csv(csv.with_stem(csv.stem + ending), "cpu", columns, rows)


def of_preset(name: str, degree: tuple[int, int], form: str) -> Rational:
    """The coefficients that ``init=name`` gives."""
    c = preset(name, degree, form)
    return Rational(c.numerator, c.denominator, form)


def presets_table(degrees: list[tuple[int, int]]) -> tuple[list[str], list[list[str | float]]]:
    """A row for each function, degree and form, and one for the function itself."""
    columns = ["function", "degree", "form", *(f"F{k * chr(39)}, max (RMS)" for k in (1, 2, 3))]
    columns += [*(f"error of F{k * chr(39)}" for k in (1, 2, 3)), "|F Q''/Q|", "jump at 0"]
    rows: list[list[str | float]] = []
    for name, target in TARGETS.items():
        exact = np.stack(target(POINTS))
        rows.append([name, "exact", "", *sizes(exact), "", "", "", "", ""])
        for degree in degrees if name != "identity" else degrees[:1]:
            for form in FORMS:
                rational = of_preset(name, degree, form)
                ours = derivatives(POINTS, *rational)
                errors = np.abs(ours - exact)[1:].max(1)
                row = [name, f"({degree[0]}, {degree[1]})", form, *sizes(ours), *errors]
                rows.append([*row, denominator_term(rational, ours), jump_at_zero(rational)])
    return columns, rows


def sizes(values: Array) -> list[str]:
    """Largest value and root mean square of each derivative but the zeroth."""
    largest, rms = np.abs(values).max(1), np.sqrt(np.square(values).mean(1))
    return [f"{m:.3g} ({r:.3g})" for m, r in zip(largest[1:], rms[1:], strict=True)]


def denominator_term(rational: Rational, values: Array) -> float:
    """max |F Q''/Q|, the last of the three terms of F'' = (P'' - 2 F' Q' - F Q'') / Q.

    With G = 1/Q, Q''/Q = 2 (G'/G)^2 - G''/G.
    """
    g = derivatives(POINTS, (1.0,), *rational[1:], order=2)
    return float(np.abs(values[0] * (2 * (g[1] / g[0]) ** 2 - g[2] / g[0])).max())


def jump_at_zero(rational: Rational) -> str:
    """The first derivative that jumps at x = 0, and by how much."""
    found = [kink for kink in kinks(*rational) if kink.x == 0.0]
    if not found:
        return "none"
    kink = found[0]
    return f"F{kink.order * chr(39)} {kink.jumps[kink.order - 1]:.1e}"


def beyond_table(options: argparse.Namespace) -> Iterator[list[str]]:
    """Sizes and jumps over functions that are no preset's: perturbed, published, trained here."""
    generator = np.random.default_rng(0)
    for form in FORMS:
        for name in ("identity", "silu", "gelu", "tanh"):
            start = of_preset(name, (5, 4), form)
            draws = [perturbed(start, generator) for _ in range(options.draws)]
            yield [f"{name}, perturbed", form, *spread(draws)]
        draws = [published(form, generator) for _ in range(options.draws)]
        yield ["KAT-T's first (authors')", form, *spread(draws)]
    if options.checkpoint:
        for name, functions in trained(options.checkpoint).items():
            yield [name, functions[0].form, *spread(functions)]


def perturbed(start: Rational, generator: np.random.Generator) -> Rational:
    """The coefficients with independent normal noise."""
    a = start.numerator + NUMERATOR_SPREAD * generator.standard_normal(len(start.numerator))
    b = start.denominator + DENOMINATOR_SPREAD * generator.standard_normal(len(start.denominator))
    return Rational(tuple(a.tolist()), tuple(b.tolist()), start.form)


def published(form: str, generator: np.random.Generator) -> Rational:
    """The authors' numerator with |b_j| drawn log-uniformly from the range that they report."""
    b = 10 ** generator.uniform(-6, np.log10(3e-2), 4) * generator.choice([-1, 1], 4)
    return Rational(PUBLISHED, tuple(b.tolist()), form)


def trained(path: Path) -> dict[str, list[Rational]]:
    """Every group's function in a trained model: those of act1 and of act2."""
    model, _ = load_model(path)
    found: dict[str, list[Rational]] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, kat.GroupRational):
            a = layer.weight_numerator.detach().double()
            b = layer.weight_denominator.detach().double()
            rows = zip(*(t.expand(layer.num_groups, -1).tolist() for t in (a, b)), strict=True)
            functions = found.setdefault(f"trained, {name.rsplit('.', 1)[-1]}", [])
            functions += [Rational(tuple(p), tuple(q), layer.form) for p, q in rows]
    return found


def spread(functions: list[Rational]) -> list[str]:
    """Median and 95 % quantile over the functions of what BEYOND names, within [-3, 3]."""
    values = np.array([_measured(rational) for rational in functions])
    middle, high = np.median(values, 0), np.quantile(values, 0.95, 0)
    return [f"{m:.2g} ({h:.2g})" for m, h in zip(middle, high, strict=True)]


def _measured(rational: Rational) -> list[float]:
    values = derivatives(POINTS[::10], *rational)
    largest, rms = np.abs(values).max(1), np.sqrt(np.square(values).mean(1))
    inside = [kink for kink in kinks(*rational) if abs(kink.x) <= WIDTH]
    jumps = np.abs([kink.jumps for kink in inside]).max(0, initial=0.0) if inside else np.zeros(3)
    return [rms[2], largest[2], largest[3], len(inside), jumps[0], jumps[1]]


def rounding_table(degrees: list[tuple[int, int]]) -> Iterator[list[str]]:
    """The error of float32 autograd through the reference, for coefficients rounded to float32."""
    x = torch.linspace(-WIDTH, WIDTH, 4001)
    for name in ("silu", "relu"):
        for degree in degrees:
            a, b = (torch.tensor([c]) for c in of_preset(name, degree, "A")[:2])
            double = (t.double().tolist() for t in (a[0], b[0]))
            exact = derivatives(x.double().numpy(), *double, "A")
            points = x[:, None].clone().requires_grad_()
            y = kat.rational(points, a, b, impl="reference")
            shares = []
            for wanted in exact:
                error = np.abs(y.detach().double().numpy()[:, 0] - wanted).max()
                shares.append(f"{error / np.abs(wanted).max():.1e}")
                (y,) = torch.autograd.grad(y.sum(), points, create_graph=True)
            yield [name, f"({degree[0]}, {degree[1]})", *shares]


def presets_figure(degrees: list[tuple[int, int]]) -> Figure:
    """F', F'' and F''' of four presets by degree, and of the functions they stand for."""
    figure = Figure(figsize=(11, 9), layout="constrained")
    panels = figure.subplots(4, 3, sharex=True)
    x = POINTS[::20]
    for row, name in zip(panels, ("silu", "gelu", "tanh", "relu"), strict=True):
        exact = TARGETS[name](x)
        for k, axes in enumerate(row, start=1):
            for degree in degrees:
                y = derivatives(x, *of_preset(name, degree, "A"))[k]
                axes.plot(x, y, lw=1.2, label=f"{degree}")
            axes.plot(x, exact[k], "--", color="black", lw=1, label="exact")
            axes.set_title(f"{name}: F{k * chr(39)}", fontsize=9)
            axes.grid(alpha=0.3)
    panels[0, 0].legend(fontsize=8, title="degree", title_fontsize=8)
    panels[3, 1].set_yscale("symlog", linthresh=1)
    panels[3, 2].set_yscale("symlog", linthresh=1)
    return figure


def kinks_figure() -> Figure:
    """One set of trained-like coefficients in both forms, and with its even powers alone."""
    rational = perturbed(of_preset("identity", (5, 4), "A"), np.random.default_rng(3))
    a, b = rational.numerator, rational.denominator
    even = tuple(value * (j % 2) for j, value in enumerate(b))
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    x = np.linspace(-WIDTH, WIDTH, 301)
    for axes, k in zip(figure.subplots(1, 3), (1, 2, 3), strict=True):
        for form, chosen, style in (("A", b, "-"), ("B", b, "-"), ("A", even, "--")):
            y = derivatives(x, a, chosen, form)[k]
            label = "even powers alone" if chosen is even else f"form {form}"
            axes.plot(*_cut_at_kinks(x, y, Rational(a, chosen, form)), style, lw=1.2, label=label)
        axes.set_title(f"F{k * chr(39)}", fontsize=9)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return figure


def _cut_at_kinks(x: Array, y: Array, rational: Rational) -> tuple[Array, Array]:
    """The line with a gap at each kink, so that no stroke joins the two sides."""
    places = np.searchsorted(x, [kink.x for kink in kinks(*rational) if abs(kink.x) < WIDTH])
    return np.insert(x, places, np.nan), np.insert(y, places, np.nan)


if __name__ == "__main__":
    main()
