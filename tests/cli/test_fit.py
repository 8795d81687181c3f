"""``kat fit`` as a user calls it, and what becomes of its files."""

from __future__ import annotations

import json

import pytest

from kat.nn.fitting import FUNCTIONS, fitter
from tests.cli.commands import refused, run


@pytest.mark.slow
def test_fit_prints_and_writes_the_same_bytes_twice(tmp_path, capsys):
    names = "fit.json", "fit.svg", "fit.png", "fit.pdf"
    for folder in (tmp_path / "first", tmp_path / "second"):
        folder.mkdir()
        for name in names[1:]:
            plot = ["--plot", folder / name, "--out", folder / names[0], "--tags", "a", "b c"]
            assert run("fit", "gelu", "--interval", -10, 10, *plot) == 0
    for name in names:
        first, second = ((tmp_path / n / name).read_bytes() for n in ("first", "second"))
        assert first == second
        assert len(first) > 500
    content = json.loads((tmp_path / "first" / "fit.json").read_text())
    assert content["max_error"] == pytest.approx(6.6626e-3, rel=1e-3)
    assert (content["tags"], content["interval"]) == (["a", "b c"], [-10, 10])
    output = capsys.readouterr().out
    assert "gelu on [-10," in output
    assert "[-20, 20]   1.4e+00" in output


def test_options_reach_the_fit(tmp_path):
    out, own = tmp_path / "fit.json", {"form": "B", "method": "least_squares", "weight": "normal"}
    options = [word for name, value in own.items() for word in (f"--{name}", value)]
    text = "-x + sqrt(1 + x**2)*0 + tanh(-x)"
    assert run("fit", text, "--degree", 5, 4, *options, "--interval", "-2e0", 2, "--out", out) == 0
    content = json.loads(out.read_text())
    assert content == {**content, **own, "interval": [-2, 2]}


def test_help_names_all_methods_weights_and_functions(capsys):
    """The command answers without the fitter, whose names it therefore repeats."""
    with pytest.raises(SystemExit):
        run("fit", "--help")
    shown = capsys.readouterr().out
    choices = ["{" + ",".join(names) + "}" for names in (fitter.METHODS, fitter.WEIGHTS)]
    assert [name for name in (*choices, *FUNCTIONS) if name not in shown] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sliu"], "did you mean 'silu'"),
        (["nowhere.csv"], "does not exist"),
        (["log(x)"], "at x = -3"),
        (["gelu", "--interval", "3", "-3"], "interval must be"),
    ],
)
def test_bad_input_is_one_line(arguments, message, capsys):
    assert message in refused(capsys, "fit", *arguments)
