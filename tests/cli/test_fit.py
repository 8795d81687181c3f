"""``kat fit`` as a user calls it, and what becomes of its files."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import yaml

from kat.nn.fitting import FUNCTIONS, fitter
from tests.cli.commands import QUICK, refused, run


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


def test_a_fit_of_the_interval_alone(tmp_path, capsys):
    """Form B's GELU on [-3, 3]: three times as close as on the whole line, and wrong beyond."""
    out = tmp_path / "fit.json"
    assert run("fit", "gelu", "--form", "B", "--interval-only", "--out", out) == 0
    assert json.loads(out.read_text())["whole_line"] is False
    shown = capsys.readouterr().out
    assert "[-3, 3] only" in shown
    beyond = re.search(r"max error on \[-6, 6\] +(\S+)", shown)[1]
    assert float(beyond) > 5


def test_points_are_fitted_and_drawn(tmp_path, capsys):
    x = np.linspace(-2, 3, 50)
    path = tmp_path / "points.csv"
    path.write_text("x,y\n" + "".join(f"{a},{a / (1 + abs(a))}\n" for a in x))
    plot = tmp_path / "points.png"
    assert run("fit", path, "--degree", 2, 1, "--plot", plot) == 0
    assert float(re.search(r"max error +(.*)", capsys.readouterr().out)[1]) < 1e-9
    assert plot.stat().st_size > 1000


@pytest.mark.slow
def test_a_fitted_file_starts_a_run_that_outlives_it(tmp_path, capsys):
    file, out = tmp_path / "fitted.json", tmp_path / "run"
    assert run("fit", "x * sigmoid(1.702*x)", "--out", file) == 0
    common = ["train", "--config", "digits", "--optim.warmup_epochs", 0, "--epochs", 1, *QUICK]
    recipe = tmp_path / "recipe.yaml"
    settings = {"model": {"name": "kat_micro_patch2_8", "args": {"act_init": str(file)}}}
    recipe.write_text(yaml.safe_dump(settings))
    assert run(*common, "--config", recipe, "--out", out) == 0
    content = json.loads(file.read_text())
    file.unlink()
    kept = json.loads((out / "config.json").read_text())["model_args"]["act_init"]
    assert kept["numerator"] == content["numerator"]
    assert run("eval", out, "--no-progress") == 0
    assert run("train", "--out", out, "--resume", "true", "--epochs", 2, *QUICK) == 0
    line = refused(capsys, *common, "--config", recipe, "--out", tmp_path / "other")
    assert "fitted.json" in line
    assert not (tmp_path / "other").exists()


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
