"""``kat report``: one interactive page of a run, of several runs, or of a grid of runs."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor, nn

from kat.analysis import count, read_rows
from kat.analysis.ablation import read_runs
from kat.analysis.figures.attention import draw_attention
from kat.analysis.inspect.activations import learned_activations
from kat.analysis.inspect.attention import attention_maps, check_attention
from kat.analysis.reports.ablation import write_ablation_report
from kat.analysis.reports.comparison import write_comparison_report
from kat.analysis.reports.run import RunFindings, write_run_report
from kat.analysis.reports.stability import rational_rows
from kat.cli.parsing import Formatter, Parser, run_command
from kat.cli.plot.attention import with_classes, with_guesses
from kat.cli.plot.images import prepared, validation_images
from kat.cli.plot.runs import find_runs, measured
from kat.data import Batch, DevicePreparation
from kat.errors import InputError
from kat.files import check_target
from kat.models import ModelRecord, load_model, rational_parameter_names, read_coefficient_history
from kat.training import read_divergence, read_history, read_settings
from kat.training.run_directory import COEFFICIENTS, REPORT, STABILITY, SUMMARY
from kat.training.sweep.grid import kept_settings

_DESCRIPTION = """\
Makes one HTML page that stands alone: it needs no network, follows the reader's light or dark mode,
and its charts answer to the pointer. Of a run: results, learning curves, what its rationals have
learned and how, stability, attention. Of several runs: results, costs, learning curves, settings.
Of tables of 'kat ablate': means, intervals, paired differences, costs.

examples:
  kat report runs/digits                          runs/digits/report.html
  kat report runs/kat runs/vit --out compared.html
  kat report runs/ablation/models.csv             runs/ablation/models.html"""

_LOOKED_AT = 3
"""Images whose attention is drawn."""


def main(arguments: list[str]) -> int:
    """Parses the arguments, reads what there is, writes the page."""
    return run_command(lambda: _main(arguments))


def _main(arguments: list[str]) -> None:
    parser = make_parser()
    parsed = parser.parse_args(arguments)
    given = [Path(path) for path in dict.fromkeys(parsed.runs)]
    tables = [path for path in given if path.suffix == ".csv"]
    if tables and tables != given:
        raise InputError(
            "tables of 'kat ablate' and folders of runs go on pages of their own; got both"
        )
    out = Path(parsed.out) if parsed.out else _default_target(given)
    check_target(out, (".html",))
    if parsed.images < 0:
        raise InputError(f"--images must be at least 0, got {parsed.images}")
    if tables or len(given) > 1:
        _refuse_what_does_nothing(parsed, parser.get_defaults())
    if tables:
        _report_grids(tables, out)
    elif len(given) > 1:
        _report_comparison(given, out)
    else:
        _report_run(given[0], out, parsed)
    sys.stdout.write(f"{out}\n")


def make_parser() -> Parser:
    """The parser of ``kat report``."""
    parser = Parser(prog="kat report", description=_DESCRIPTION, formatter_class=Formatter)
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help="folders of runs, or the .csv files of 'kat ablate'")
    add(
        "--out",
        type=str | None,
        help="where to write (default: report.html in the run's folder, GRID.html beside a table,"
        " report.html beside the first of several)",
    )
    add("--data", type=str | None, help="of a run: take images of this data set, not of its own")
    add("--images", type=int, default=256, help="of a run: how many validation images; 0: none")
    return parser


def _refuse_what_does_nothing(parsed: Namespace, default: Namespace) -> None:
    """Options of the page of one run, on another page."""
    for name in ("data", "images"):
        if getattr(parsed, name) != getattr(default, name):
            raise InputError(
                f"--{name} is for the page of one run; tables and several runs show no images"
            )


def _default_target(given: Sequence[Path]) -> Path:
    first = given[0]
    if len(given) > 1:
        return first.parent / REPORT
    return first.with_suffix(".html") if first.suffix == ".csv" else first / REPORT


def _report_run(folder: Path, out: Path, parsed: Namespace) -> None:
    settings = read_settings(folder)
    model, record = load_model(folder)
    run = RunFindings(
        name=str(folder),
        record=record,
        cost=count(model, record.input_size),
        data=settings["data"]["name"],
        settings=kept_settings(folder),
        summary=_read_json(folder / SUMMARY),
        history=read_history(folder),
        failure=read_divergence(folder),
    )
    images = Images(folder, model, record, parsed)
    if rational_parameter_names(model):
        run.seen = images.said
        run.activations = learned_activations(model, images.inputs())
        if (folder / COEFFICIENTS).is_file():
            run.coefficients = read_coefficient_history(folder / COEFFICIENTS)
        if (folder / STABILITY).is_file() and (rows := read_rows(folder / STABILITY)):
            run.stability = rational_rows(rows)
    run.attention = images.attention()
    write_run_report(run, out)


def _read_json(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


class Images:
    """The validation images that the model of a run is shown, or the reason why there are none.

    Args:
        folder: of the run.
        model: that it has trained.
        record: of its model.
        parsed: the options of the command.
    """

    def __init__(
        self, folder: Path, model: nn.Module, record: ModelRecord, parsed: Namespace
    ) -> None:
        self.model, self.record = model, record
        self.shown: list[Batch] = []
        self.said = "It was shown no images."
        if parsed.images == 0:
            return
        try:
            images = validation_images(folder, model, record, parsed.images, parsed.data)
            self.shown, self.classes = list(images.batches()), images.images.classes
        except InputError as error:
            if parsed.data is not None:
                raise
            self.said = f"It was shown no images: {error}"
            return
        self.said = (
            f"Grey is the density of the inputs that {sum(len(b.labels) for b in self.shown)}"
            " validation images bring, of all groups together."
        )

    def inputs(self) -> list[Tensor] | None:
        """Prepared for the model."""
        return [x for batch in self.shown for x in prepared(batch, self.record)] or None

    def attention(self) -> Figure | str:
        """The figure of the first images, or why there is none."""
        try:
            check_attention(self.model)
        except InputError as error:
            return str(error)
        if not self.shown:
            return f"{self.said} 'kat plot attention' takes files of images."
        pictures, names = with_classes(self.shown[:1], self.classes)
        pictures, names = pictures[:_LOOKED_AT], names[:_LOOKED_AT]
        prepare = DevicePreparation(self.record.mean, self.record.std)
        maps = attention_maps(self.model, prepare(pictures))
        return draw_attention(pictures, with_guesses(names, maps.logits, self.record), maps)


def _report_grids(tables: Sequence[Path], out: Path) -> None:
    grids = {path.stem: read_runs(path) for path in tables}
    if len(grids) < len(tables):
        raise InputError(f"two tables have the same name: {', '.join(map(str, tables))}")
    histories = {
        path.stem: {row["run"]: read_history(path.parent / row["run"]) for row in grids[path.stem]}
        for path in tables
    }
    write_ablation_report(grids, histories, out)


def _report_comparison(folders: Sequence[Path], out: Path) -> None:
    rows = [measured(row) for row in find_runs(list(map(str, folders)), group=False, labels=None)]
    histories = {row["cell"]: read_history(row["folder"]) for row in rows}
    settings = {row["cell"]: kept_settings(row["folder"]) for row in rows}
    write_comparison_report(rows, histories, settings, out)
