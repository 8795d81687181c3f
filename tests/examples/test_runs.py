"""Runs of the domains: killed, diverged, tuned, paired by seed; their options; their errors."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import nn

from kat.tables import write_table
from kat.training.record.provenance import PROVENANCE, commit
from tests.equality import assert_equal
from tests.examples.domains import rows_of, run_twice, train
from tests.images import write_fashion_mnist


def test_a_run_that_was_killed_ends_with_the_same_bits(example, tmp_path):
    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(1))
    ends = []
    for stop_at in (None, 27):
        torch.manual_seed(0)
        layer = example("layers").mlp("grkan", 16, 24)
        path = tmp_path / f"{stop_at}.ckpt"
        if stop_at:
            with pytest.raises(KeyboardInterrupt):
                train(example, layer, x, path, 40, stop_at)
            torch.manual_seed(0)
            layer = example("layers").mlp("grkan", 16, 24)
        row = train(example, layer, x, path, 40)
        ends.append((row["valid"], row["curve"], [p.tolist() for p in layer.parameters()]))
        assert row["calls"] == (40 if stop_at is None else 40 - 26)
    assert ends[0] == ends[1]
    assert ends[0][0] == min(valid for _, valid in ends[0][1])


def test_a_run_that_diverges_keeps_its_best_weights_and_is_not_chosen(example, tmp_path):
    torch.manual_seed(0)
    layer, best = example("layers").mlp("gelu", 16, 24), []
    path = tmp_path / "x.ckpt"
    trial = example("runner").Trial("t", "a", 1e-2, 1, 40, torch.device("cpu"), path)
    x = torch.randn(64, 16)

    def loss():
        return (layer(x) - x.sin()).square().mean() * (torch.nan if best else 1.0)

    def validate():
        best.extend(p.detach().clone() for p in layer.parameters())
        return 0.5

    row = example("training").train(trial, layer, loss, validate)
    assert (row["valid"], row["curve"]) == (torch.inf, [(2, 0.5), (4, torch.inf)])
    assert_equal([*layer.parameters()], best)


def test_the_runner_tunes_pairs_seeds_and_ranks_by_each_measure(example, tmp_path, capsys):
    errors = {"gelu": (2.0, 5.0), "grkan": (1.0, 7.0)}
    rates = dict.fromkeys(errors, (0.1, 0.2, 0.3))
    domain = example("runner").Domain(
        "", "x", ["s", "t"], rates, 5, columns=("hard", "other"), measures=("test", "hard")
    )
    made = []

    def run(trial):
        made.append(trial)
        test, hard = (value + trial.seed for value in errors[trial.arm])
        row = {"valid": abs(trial.rate - 0.2), "test": test, "hard": hard, "other": 3.0}
        return nn.Linear(2, 3), row | {"seconds": 0.0}

    options = domain.parser().parse_args(["--csv", str(tmp_path / "x.csv"), "--seed", "1", "2"])
    domain.main(options, run)
    assert [trial.tuning for trial in made] == 2 * ([True] * 6 + [False] * 4)
    assert {trial.rate for trial in made if trial.seed} == {0.2}
    printed = capsys.readouterr().out
    titles = [f"{task}: {measure} error" for task in "st" for measure in ("test", "hard")]
    assert re.findall(r"\w: \w+ error", printed) == titles
    differences = re.findall(r"([-+]\d\.\d{4}) ± 0\.0000 +gelu", printed)
    assert [float(value) for value in differences] == [-1.0, 2.0] * 2
    ranks = re.findall(r"rank by (\w+) .*\n.*\ngelu +(\S+).*\ngrkan +(\S+)", printed)
    assert ranks == [("test", "2.00", "1.00"), ("hard", "1.00", "2.00")]
    rows = rows_of(tmp_path / "x.csv")
    assert [row["test"] + row["hard"] for row in rows if row["for"] == "tune"] == [""] * 12
    assert {row["hard"] for row in rows if row["for"] == "test"} == {"6.0", "7.0", "8.0", "9.0"}
    assert {row["parameters"] for row in rows} == {"9"}
    domain.main(options, run)
    assert len(made) == len(rows) == 20

    # a file from before some columns gets them, and keeps its rows
    before = [{name: v for name, v in row.items() if name not in PROVENANCE} for row in rows]
    write_table(tmp_path / "x.csv", list(before[0]), before)
    options.seed = [1, 2, 3]
    domain.main(options, run)
    after = rows_of(tmp_path / "x.csv")
    assert after[:20] == [row | dict.fromkeys(PROVENANCE, "") for row in before]
    assert [row["commit"] for row in after[20:]] == [commit()] * 4 != [""] * 4


@pytest.mark.release
@pytest.mark.parametrize(
    ("name", "options", "package"),
    [
        ("images", "--task fashion-100 --steps 2 --arm gelu gated_grkan", "timm"),
        ("physics", "--task heat --steps 6 --arm gelu grkan", "torch"),
        ("language", "--task python3-doc --steps 1 --arm swiglu gated_grkan", "tokenizers"),
    ],
)
def test_a_domain_makes_a_row_a_run_and_resumes(tmp_path, name, options, package):
    pytest.importorskip(package, reason=f"{package}, of the extra [domains], is not installed")
    if name == "images":
        write_fashion_mnist(tmp_path, train=400, val=60)
        options += f" --data fashion_mnist:{tmp_path}"
    if name == "language":
        pages = tmp_path / "python3" / "html" / "_sources"
        pages.mkdir(parents=True)
        for i in range(30):
            (pages / f"{i}.rst.txt").write_text(200 * f"word{i} and more, ")
        options += f" --docs {tmp_path} --generate 2"
    (tmp_path / "csv").mkdir()
    rows, _ = run_twice(f"{name}.py", tmp_path / "csv" / "x.csv", *options.split())
    assert all(0 <= float(row["test"]) < math.inf for row in rows[6:])
