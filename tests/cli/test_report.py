"""``kat report`` as a user calls it: on runs, on tables, and on what is neither."""

from __future__ import annotations

import html
import re

import pytest

from kat.analysis.runs import measure, write_runs
from kat.errors import InputError
from tests.analysis.report_pages import tables_of, texts_of
from tests.cli.commands import QUICK, refused, run

pytestmark = pytest.mark.slow

SMALL = ["--config", "digits", "--optim.warmup_epochs", 0, "--epochs", 2, *QUICK]


@pytest.fixture(scope="module")
def kat_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "kat"
    args = ["--model.args", "{depth: 1}", "--monitor", "--monitor.every_n_steps", 1]
    assert run("train", *SMALL, *args, "--out", out) == 0
    return out


@pytest.fixture(scope="module")
def vit_run(kat_run):
    out = kat_run.parent / "vit"
    args = ["--model.name", "vit_micro_patch2_8", "--model.args", "{depth: 1}"]
    assert run("train", *SMALL, *args, "--out", out) == 0
    return out


def test_a_page_of_a_run_is_in_its_folder(kat_run, capsys):
    capsys.readouterr()
    assert run("report", kat_run, "--images", 20) == 0
    page = kat_run / "report.html"
    assert capsys.readouterr().out == f"{page}\n"
    text = page.read_text()
    assert "20 validation images" in text
    assert ["model.args.depth", "1"] in tables_of(page)[0]
    assert "gray: the inputs" in str(texts_of(page))
    before = page.read_bytes()
    assert run("report", kat_run, "--images", 20) == 0
    assert page.read_bytes() == before
    assert run("report", kat_run, "--images", 0) == 0
    assert "Predictions</h2>" not in page.read_text()
    assert "gray: the inputs" not in str(texts_of(page))


def test_a_table_of_an_ablation_finds_its_runs(kat_run, vit_run, capsys):
    table = kat_run.parent / "small.csv"
    folders = (kat_run, vit_run)
    write_runs([{"cell": f.name, "seed": 0, **measure(f), "run": f.name} for f in folders], table)
    capsys.readouterr()
    assert run("report", table) == 0
    page = table.with_suffix(".html")
    assert capsys.readouterr().out == f"{page}\n"
    assert "are left out" not in page.read_text()
    assert [row[0] for row in tables_of(page)[0]] == ["cell", "kat", "vit"]
    assert {"kat", "vit"} <= set(texts_of(page)[2])


def test_data_whose_classes_are_others_leave_out_the_predictions(kat_run, capsys, monkeypatch):
    def refuse(*arguments):
        raise InputError("other classes")

    monkeypatch.setattr("kat.analysis.reports.findings.class_findings", refuse)
    assert run("report", kat_run, "--images", 20) == 0
    text = html.unescape((kat_run / "report.html").read_text())
    assert "other classes" in text
    assert "other classes" in refused(capsys, "report", kat_run, "--data", "digits")


def test_what_is_wrong_is_named(kat_run, tmp_path, capsys):
    csv = tmp_path / "grid.csv"
    csv.write_text("a,b\n1,2\n")
    for arguments, says in [
        ([tmp_path], "run.yaml (cannot be read|does not exist)"),
        ([kat_run, csv], "cannot be read: Is a directory"),
        ([csv, "--data", "digits"], "--data has no effect on the page of several runs"),
    ]:
        assert re.search(says, refused(capsys, "report", *arguments)), says
    assert not list(tmp_path.glob("*.html"))
