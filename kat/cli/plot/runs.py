"""The runs that a figure of several is of: folders, and tables of ``kat ablate``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kat.analysis.ablation import Row, read_runs
from kat.cli.ablate import measure
from kat.cli.eval import short_names
from kat.cli.parsing import Parser
from kat.errors import InputError
from kat.training import read_settings
from kat.training.run_directory import SETTINGS, SUMMARY
from kat.training.sweep.grid import REPORTING


def add_run_arguments(parser: Parser) -> None:
    """The arguments that :func:`find_runs` takes."""
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="the folder of a run, or the .csv of 'kat ablate', whose cells are one line each",
    )
    parser.add_argument(
        "--group", action="store_true", help="take folders that differ in the seed alone together"
    )
    parser.add_argument("--labels", nargs="+", type=str, help="names in place of those found")


def find_runs(paths: Sequence[str], *, group: bool, labels: Sequence[str] | None) -> list[Row]:
    """A row for each run: ``cell`` (its label), ``seed``, ``status``, ``folder``.

    Those of a table have its other columns as well; the status of a folder is ``done``, whatever
    it holds.

    Args:
        paths: folders of runs, and tables of ``kat ablate``.
        group: give runs that differ in the seed alone one label.
        labels: in place of the labels that were found, in their order.

    Raises:
        InputError: what is given is neither, or the labels are not as many, or not different.
    """
    given = [Path(path) for path in dict.fromkeys(paths)]
    names = dict(zip(given, short_names(given), strict=True))
    first: dict[str, str] = {}
    rows: list[Row] = []
    for path in given:
        if path.suffix == ".csv":
            rows += _of_table(path, f"{names[path].removesuffix('.csv')}: " * (len(given) > 1))
            continue
        settings = _settings(path)
        key = _without_seed(settings) if group else names[path]
        cell = first.setdefault(key, names[path])
        seed = settings.get("seed", 0)
        rows.append({"cell": cell, "seed": seed, "status": "done", "folder": path})
    return rows if labels is None else _labelled(rows, labels)


def measured(row: Row) -> Row:
    """A row of a table as it is; that of a folder with what its run has given.

    Raises:
        InputError: the run in the folder is not done.
    """
    if "top1" in row:
        return row
    folder: Path = row["folder"]
    found = measure(folder)
    if found["status"] != "done":
        raise InputError(f"{folder} has no result yet: there is no {SUMMARY} in it")
    return {**json.loads((folder / SUMMARY).read_text(encoding="utf-8")), **row, **found}


def _of_table(path: Path, prefix: str) -> list[Row]:
    return [
        {**row, "cell": prefix + row["cell"], "folder": path.parent / row["run"]}
        for row in read_runs(path)
    ]


def _settings(folder: Path) -> dict[str, Any]:
    if not (folder / SETTINGS).is_file():
        raise InputError(f"{folder} is neither the folder of a run nor a .csv of 'kat ablate'")
    return read_settings(folder)


def _without_seed(settings: dict[str, Any]) -> str:
    """Equal for runs that differ in nothing but the seed, where they are kept, and how they say."""
    kept = {name: v for name, v in settings.items() if name not in (*REPORTING, "seed")}
    return json.dumps(kept, sort_keys=True)


def _labelled(rows: list[Row], labels: Sequence[str]) -> list[Row]:
    cells = list(dict.fromkeys(row["cell"] for row in rows))
    if len(labels) != len(cells) or len(set(labels)) < len(labels):
        raise InputError(
            f"--labels must be {len(cells)} different names, for {', '.join(cells)}; got"
            f" {', '.join(labels)}"
        )
    names = dict(zip(cells, labels, strict=True))
    return [{**row, "cell": names[row["cell"]]} for row in rows]
