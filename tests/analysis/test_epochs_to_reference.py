"""The first epoch at which a run reaches the mean result of the reference cell."""

from __future__ import annotations

import math

from kat.analysis.epochs_to_reference import curve_of, with_epochs_to

CURVES = {
    "v0": [50, 70, 60],
    "v1": [40, 80, 90],  # the mean of the best values is 80
    "k0": [80, 70, 95],
    "k1": [79, 79.9, 79.9],
    "k2": [10, 81, 82],
}


def _row(run, status="done"):
    identity = {"cell": run[0], "seed": int(run[1]), "status": status, "run": run}
    if status != "done":
        return identity
    history = [{"epoch": e, "top1": v} for e, v in enumerate(CURVES[run], 1)]
    return {**identity, "top1": max(CURVES[run]), "validation_curve": curve_of(history, "top1")}


def _epochs(rows):
    found = with_epochs_to(rows, "v", "top1")
    return {row["run"]: row.get("epochs_to_reference", "-") for row in found}


def test_the_mean_of_the_best_epochs_is_to_be_reached():
    rows = [_row(run) for run in CURVES]
    assert _epochs(rows) == {"v0": None, "v1": 2, "k0": 1, "k1": None, "k2": 2}
    assert "epochs_to_reference" not in rows[0]


def test_runs_without_a_result_neither_count_nor_get_one():
    rows = [_row("v0"), _row("v1", "failed"), _row("k0"), _row("k2", "diverged")]
    assert _epochs(rows) == {"v0": 2, "v1": "-", "k0": 1, "k2": "-"}


def test_without_a_result_of_the_reference_there_is_no_column():
    assert _epochs([_row("v0", "failed"), _row("k0")]) == {"v0": "-", "k0": "-"}


def test_an_epoch_without_the_metric_reaches_nothing():
    curve = curve_of([{"epoch": 1}, {"epoch": 2, "top1": 70.0}], "top1")
    assert [float(value) for value in curve.split()][1:] == [70]
    assert math.isnan(float(curve.split()[0]))
    rows = [{**_row("v0"), "validation_curve": curve}]
    assert with_epochs_to(rows, "v", "top1")[0]["epochs_to_reference"] == 2


def test_beside_a_run_of_a_table_without_curves_no_run_has_an_epoch():
    old = {name: value for name, value in _row("k0").items() if name != "validation_curve"}
    assert with_epochs_to([_row("v0"), old], "v", "top1") == [_row("v0"), old]
