"""``kat plot``: draw figures of trained models and of comparisons."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import astuple, fields
from fnmatch import fnmatch
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import kat
from kat.analysis.choices import ANIMATED, COSTS, PANELS
from kat.cli.options.parser import Parser, refuse_options
from kat.errors import InputError
from kat.files import short_names
from kat.settings import Count, CountOrZero, Positive
from kat.tables import print_table, write_table
from kat.text import say, warn

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kat.analysis.ablation import Estimate
    from kat.analysis.runs import History


def activations(arguments: list[str]) -> None:
    """``kat plot activations``: draw the learned rationals of a model and the density of inputs.

    One panel per layer, one line per group, with its initial function. The gray density shows the
    inputs on validation images of the run, or of --data. --symbolic prints the known function that
    is nearest to each group's: c f(a x + b) + d, where f is identity, relu, gelu, tanh or another,
    and the distance in standard deviations of the learned function.

    examples:
      kat plot activations runs/digits --out activations.svg
      kat plot activations runs/digits --symbolic --csv readings.csv
      kat plot activations model.safetensors --images 0 --width 4     without images
    """
    options = activations_parser().parse_args(arguments)
    from kat.nn import read_coefficient_history  # imports torch
    from kat.training.record.run_directory import COEFFICIENTS

    model, record = kat.models.load_model(options.run)
    inputs, note = _inputs(options, model, record)
    path = options.run / COEFFICIENTS
    history = read_coefficient_history(path) if path.is_file() else None
    analysis = kat.analysis
    found = analysis.learned_activations(model, inputs, width=options.width, history=history)
    analysis.plot_activations(found, options.out)
    say(note)
    if options.symbolic or options.csv:
        readings = list(chain.from_iterable(map(analysis.read_symbols, found)))
        _print(readings)
        if options.csv:
            names = [field.name for field in fields(analysis.Reading)]
            write_table(options.csv, names, map(astuple, readings))
            say(options.csv)
    say(options.out)


def activations_parser() -> Parser:
    """Return the parser of ``kat plot activations``."""
    parser = Parser(activations.__doc__, "RUN")
    parser.add_common("run", "--data")
    parser.add(
        "--images",
        type=CountOrZero,
        default=512,
        metavar="N",
        help="number of validation images; 0: draw without images",
    )
    parser.add(
        "--width", type=Positive, help="draw x from -WIDTH to WIDTH (default: the range of inputs)"
    )
    parser.add("--symbolic", action="store_true", help="print the nearest known functions")
    parser.add_csv("the nearest known function of every group")
    parser.add_picture("activations.png")
    return parser


def _inputs(
    options: Namespace, model: nn.Module, record: kat.models.ModelRecord
) -> tuple[Iterator[Tensor] | None, str]:
    """Return batches of inputs, if there are images, and a line that says which."""
    from kat.analysis.inspect.predictions import images_of_run, normalized

    if options.images == 0:
        return None, "drawn without images"
    try:
        images = images_of_run(options.run, model, record, options.images, options.data)
    except InputError as error:
        if options.data:
            raise
        return None, f"drawn without images: {error}"
    note = f"in gray the inputs of validation images of {images.data.name}, {images.count} at most"
    return normalized(images.batches(), record), note


def _print(readings: Sequence[kat.analysis.Reading]) -> None:
    """Print a row for each function that is nearest to groups of a layer."""
    from kat.analysis.inspect.symbolic import median

    found: dict[tuple[str, str], list[kat.analysis.Reading]] = {}
    for reading in readings:
        found.setdefault((reading.layer, reading.nearest), []).append(reading)
    rows = []
    for (layer, nearest), own in found.items():
        typical = min(own, key=lambda reading: reading.distance)
        distance = median(reading.distance for reading in own)
        from_start = f"{median(reading.from_start for reading in own):.3f}"
        rows.append((layer, nearest, len(own), f"{distance:.3f}", from_start, typical.formula))
    print_table(("layer", "nearest", "groups", "distance", "from start", "e.g."), rows)


def attention(arguments: list[str]) -> None:
    """``kat plot attention``: draw where a model attends, over images.

    Draws over each image what the class token of a Vision Transformer attends to, or, if the model
    averages its patches, what the patches attend to on average: attention rollout, and the mean
    over the heads of each block. The images are files, or a few validation images of the run.

    examples:
      kat plot attention runs/digits
      kat plot attention runs/digits --block 3 --images 6      the heads of the last of four blocks
      kat plot attention runs/mine cat.jpg dog.jpg --out attention.svg
    """
    parser = attention_parser()
    options = parser.parse_args(arguments)
    if options.files:
        refuse_options(parser, options, ["data", "images"], "beside image files")
    from kat.analysis.figures.attention import draw_attention, true_classes, with_predictions
    from kat.analysis.figures.base import save_figure
    from kat.analysis.inspect.attention import attention_maps, check_attention
    from kat.analysis.inspect.predictions import images_of_run
    from kat.data.transforms import DeviceTransform, read_images

    model, record = kat.deploy.open_model(options.run, options.image_size)
    transformer = check_attention(model)
    if options.files:
        pictures = read_images(options.files, record, normalize=False)
        names = [Path(path).name for path in options.files]
    else:
        images = images_of_run(options.run, model, record, options.images, options.data)
        batches = list(images.batches())
        pictures, names = true_classes(batches, images.images.classes)
        if len(names) < options.images:
            unread = chain.from_iterable(batch.unreadable for batch in batches)
            reasons = [f"{name}: {why}" for name, why in unread]
            why = "; ".join(reasons) or f"the split has {len(names)}"
            say(f"{len(names)} of {options.images} images are drawn: {why}")
    maps = attention_maps(transformer, DeviceTransform(record.mean, record.std)(pictures))
    titles = with_predictions(names, maps.logits, record.classes)
    save_figure(draw_attention(pictures, titles, maps, options.block), options.out)
    say(options.out)


def attention_parser() -> Parser:
    """Return the parser of ``kat plot attention``."""
    parser = Parser(attention.__doc__, "RUN [IMAGE...]")
    add = parser.add
    parser.add_common("run", "--data")
    add("files", nargs="*", metavar="IMAGE", help="image files")
    add(
        "--images",
        type=Count,
        default=4,
        metavar="N",
        help="validation images, if there are no files",
    )
    add("--block", type=int, metavar="N", help="draw each head of this block, counted from 0")
    add("--image-size", type=Count, metavar="N", help="side of the square that the model sees")
    parser.add_picture("attention.png")
    return parser


def curves(arguments: list[str]) -> None:
    """``kat plot curves``: draw learning curves of one or several runs.

    Draws loss and accuracy against epochs, one color per run. For runs that belong together (the
    cells of a table, or run directories with --group) it draws the mean, and a band from the lowest
    to the highest, over the epochs that all of them have. For a single run a circle marks the best
    epoch.

    examples:
      kat plot curves runs/kat runs/vit --labels KAT ViT
      kat plot curves runs/kat-seed* runs/vit-seed* --group --metric top1
      kat plot curves runs/ablation/models.csv --out curves.svg
    """
    options = curves_parser().parse_args(arguments)
    from kat.analysis.figures.learning_curves import usual_curves  # imports torch
    from kat.analysis.runs import find_runs

    lines: dict[str, list[History]] = {}
    left_out = []
    for row in find_runs(options.runs, group=options.group, labels=options.labels):
        history = kat.training.read_history(row["folder"]) if row["status"] == "done" else []
        if history:
            lines.setdefault(row["cell"], []).append(history)
        elif row["status"] == "done":
            left_out.append(row["folder"])
    if not lines:
        raise InputError(
            f"no run of {', '.join(map(str, options.runs))} is done and has a history.csv with an"
            " epoch in it"
        )
    for folder in left_out:
        warn(f"note: {folder} is left out: it has no history.csv with an epoch in it")
    usual = usual_curves(next(iter(lines.values()))[0][-1])
    kat.analysis.plot_learning_curves(lines, options.out, options.metric or usual)
    say(options.out)


def curves_parser() -> Parser:
    """Return the parser of ``kat plot curves``."""
    parser = _runs_parser(curves.__doc__)
    parser.add(
        "--metric",
        nargs="+",
        choices=list(PANELS),
        metavar="NAME",
        help=f"a panel each, of {', '.join(PANELS)} (default: the loss, and the task's first"
        " metric)",
    )
    parser.add_picture("curves.png")
    return parser


def _runs_parser(doc: str | None) -> Parser:
    """Return the parser of a figure of runs, with the arguments of :func:`find_runs`."""
    parser = Parser(doc, "RUN...")
    parser.add(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="a run directory, or the .csv of 'kat ablate', whose cells are a line each",
    )
    parser.add(
        "--group", action="store_true", help="put runs together that differ in the seed only"
    )
    parser.add("--labels", nargs="+", metavar="NAME", help="names in place of those found")
    return parser


def cost(arguments: list[str]) -> None:
    """``kat plot cost``: draw accuracy against parameters, FLOPs, seconds and memory.

    Draws the first metric of a task (top-1, box AP, mIoU), with its 95 % interval over the seeds,
    against the costs of a model, and joins the Pareto front. A cell of a table, or the run
    directories that --group puts together, is one point. Grids with 'test: true' show the metric on
    test images, others on validation images; the axis says which. Seconds depend on the machine:
    runs at the same time slow each other down.

    examples:
      kat plot cost runs/ablation/models.csv
      kat plot cost runs/kat runs/vit --labels KAT ViT --x flops --out flops.svg
    """
    options = cost_parser().parse_args(arguments)
    from kat.analysis.ablation import compared, main_metric, summarize, with_split  # imports torch
    from kat.analysis.figures.base import save_figure
    from kat.analysis.figures.grids import draw_costs, pareto_front
    from kat.analysis.runs import find_runs, with_results

    found = find_runs(options.runs, group=options.group, labels=options.labels)
    rows = [with_results(row) for row in found]
    done = [row for row in rows if row["status"] == "done"]
    if not done:
        raise InputError(f"no run of {', '.join(map(str, options.runs))} is done")
    metric = compared(main_metric(done), done)
    results = summarize(rows, measure=metric.name)
    costs = list(COSTS) if options.x == "all" else [options.x]
    save_figure(draw_costs(results, metric, costs), options.out)
    for result in results:
        if result.estimate is None:
            has_run = result.row["status"] == "done"
            reason = f"no run has a {with_split(metric)}" if has_run else "no run is done"
            say(f"left out, {reason}: {result.name}")
    for name in costs:
        front = ", ".join(result.name for result in pareto_front(results, name))
        say(f"Pareto front in {name}: {front}")
    say(options.out)


def cost_parser() -> Parser:
    """Return the parser of ``kat plot cost``."""
    parser = _runs_parser(cost.__doc__)
    parser.add("--x", choices=[*COSTS, "all"], default="all", help="the cost; all: a panel each")
    parser.add_picture("cost.svg")
    return parser


def evolution(arguments: list[str]) -> None:
    """``kat plot evolution``: draw how the rationals of a run changed during training.

    Draws the rationals from coefficients.csv: as small multiples, one row per layer and one column
    per step, or as an animation (.gif, .mp4). With --images, a gray density shows the inputs in the
    trained model.

    examples:
      kat plot evolution runs/digits --out evolution.gif
      kat plot evolution runs/digits --out evolution.svg --width 4
      kat plot evolution runs/digits --layers "*.act2" --images 512 --out evolution.gif
    """
    options = evolution_parser().parse_args(arguments)
    from kat.nn import read_coefficient_history  # imports torch
    from kat.training.record.run_directory import COEFFICIENTS

    history = read_coefficient_history(options.run / COEFFICIENTS)
    history = {name: own for name, own in history.items() if fnmatch(name, options.layers)}
    if not history:
        raise InputError(f"no layer of {options.run} has a name like {options.layers}")
    seen: list[kat.analysis.Activation] = []
    if options.images:
        model, record = kat.models.load_model(options.run)
        inputs, note = _inputs(options, model, record)
        seen = kat.analysis.learned_activations(model, inputs, width=options.width)
        say(note)
    kat.analysis.plot_evolution(history, options.out, width=options.width, seen=seen)
    say(options.out)


def evolution_parser() -> Parser:
    """Return the parser of ``kat plot evolution``."""
    parser = Parser(evolution.__doc__, "RUN")
    parser.add_common("run", "--data")
    parser.add(
        "--layers",
        default="*",
        metavar="PATTERN",
        help="draw the layers whose name matches, e.g. '*.act2'",
    )
    parser.add(
        "--images",
        type=CountOrZero,
        default=0,
        metavar="N",
        help="number of validation images whose density is drawn",
    )
    parser.add("--width", type=Positive, default=3.0, help="draw x from -WIDTH to WIDTH")
    parser.add_picture("evolution.png", ANIMATED)
    return parser


def forest(arguments: list[str]) -> None:
    """``kat plot forest``: draw the differences of all cells of several grids, one line each.

    Draws, for each cell of the tables of 'kat ablate', the paired difference from the first cell of
    its grid, with its 95 % interval over the seeds. The difference is in points of the metric, on
    test images in grids with 'test: true', else on validation images. Intervals are not
    corrected for the number of comparisons.

    examples:
      kat plot forest runs/ablation/models.csv runs/ablation/groups.csv
      kat plot forest runs/ablation/components.csv --out components.png
    """
    options = forest_parser().parse_args(arguments)
    from kat.analysis.ablation import compared, main_metric, summarize, with_split  # imports torch
    from kat.analysis.figures.base import save_figure
    from kat.analysis.figures.grids import draw_forest
    from kat.analysis.runs import read_runs

    paths: list[Path] = list(dict.fromkeys(options.tables))
    names = [name.removesuffix(".csv") for name in short_names(paths)]
    rows = {name: read_runs(path) for name, path in zip(names, paths, strict=True)}
    metrics = {name: compared(main_metric(own), own) for name, own in rows.items()}
    if len(set(metrics.values())) > 1:
        each = ", ".join(f"{name!r} by {with_split(metric)}" for name, metric in metrics.items())
        raise InputError(f"grids in one figure must be compared by one metric: {each}")
    metric = next(iter(metrics.values()))
    grids = {name: summarize(own, measure=metric.name) for name, own in rows.items()}
    groups: dict[str, list[tuple[str, Estimate]]] = {}
    for name, cells in grids.items():
        differences = [(cell.name, cell.difference) for cell in cells if cell.difference]
        if differences:
            groups[f"{name} (minus {cells[0].name})"] = differences
    if not groups:
        raise InputError("no cell can be compared with the first of its grid")
    save_figure(
        draw_forest(
            groups, f"difference from the grid's first cell (points of {with_split(metric)})"
        ),
        options.out,
    )
    for name, results in grids.items():
        for cell in results[1:]:
            if cell.difference is None:
                reference = results[0].name
                say(f"left out, no seed in common with {reference!r}: {name}: {cell.name}")
    say(options.out)


def forest_parser() -> Parser:
    """Return the parser of ``kat plot forest``."""
    parser = Parser(forest.__doc__, "GRID.csv...")
    parser.add(
        "tables", nargs="+", type=Path, metavar="GRID.csv", help="a .csv table of 'kat ablate'"
    )
    parser.add_picture("forest.svg")
    return parser
