"""Hostile YAML, JSON and COCO files and damaged run directories: each costs one line at most."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import yaml

from kat.cli.options.recipes import recipe_path
from kat.models import build_model, save_model
from tests.hostile import DOCUMENTS, assert_held, changed, flipped
from tests.isolated import call
from tests.models.small import make_record

pytestmark = pytest.mark.slow

QUICK = [
    "--max_steps=1", "--limit_train_batches=1", "--limit_val_batches=1", "--no-progress",
    "--accelerator=cpu",
]  # fmt: skip
COUNTS = {"run": 200, "yaml": 100, "json": 100, "coco": 200}
"""Documents drawn at random in a release check, beside the fixed ones."""
SHARE = 4
"""Documents of each kind drawn otherwise."""


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    """A run with everything that a run writes, but for a divergence, which is added."""
    out = tmp_path_factory.mktemp("runs") / "run"
    settings = [
        "--config=digits", "--epochs=2", "--optim.warmup_epochs=0", "--limit_train_batches=2",
        "--limit_val_batches=2", "--no-progress", "--monitor", "--monitor.every_n_steps=1",
        "--model.args={depth: 1}", f"--out={out}",
    ]  # fmt: skip
    assert call(["train", *settings], out.parent).code == 0
    (out / "divergence.json").write_text(json.dumps({"message": "it diverged"}))
    return out


def damaged_runs(run, folder, count):
    """Commands on copies of a run, in each of which one file is damaged."""
    files = [path.name for path in sorted(run.iterdir()) if path.is_file()]
    for number in range(count):
        rng = random.Random(f"run {number}")
        name, copy = files[number % len(files)], folder / f"run{number}"
        shutil.copytree(run, copy)
        damage = _damage(copy / name, rng)
        shown = rng.choice(
            [["report", "run"], ["report", "run", run], ["plot", "curves", "run"],
             ["eval", "run", "--limit=8"], ["plot", "activations", "run"]]
        )  # fmt: skip
        options = ["--images=8", "--out=page.html"] if shown[0] == "report" else []
        words = [str(copy) if word == "run" else str(word) for word in shown]
        yield f"{damage} {name}: {words[:2]}", partial(call, [*words, *options], copy)


def _damage(path: Path, rng: random.Random) -> str:
    """Damages a file; returns what was done."""
    content = path.read_bytes()
    kind = rng.choice(["missing", "flipped", "document", "changed", "changed"])
    if kind == "missing":
        path.unlink()
    elif kind == "document":
        kind = rng.choice(sorted(DOCUMENTS))
        path.write_bytes(DOCUMENTS[kind])
    elif kind == "changed" and path.suffix in (".json", ".yaml"):
        document = changed(yaml.safe_load(content), rng)
        kind = f"changed to {document!r}"[:600]
        path.write_text(json.dumps(document))
    elif kind == "changed" and path.suffix == ".csv":
        lines = content.decode().splitlines()
        row = rng.randrange(len(lines))
        cells = lines[row].split(",")
        cells[rng.randrange(len(cells))] = rng.choice(["", "x", "nan", "inf", "-1", "1e300", "a,b"])
        lines[row] = ",".join(cells)
        kind = f"row {row} {lines[row][:200]}"
        path.write_text("\n".join(lines))
    else:
        path.write_bytes(flipped(content, rng))
    return kind


def hostile_documents(name, good, count):
    """The fixed documents, then changed and damaged forms of a good one; each with a name."""
    yield from DOCUMENTS.items()
    for number in range(count):
        rng = random.Random(f"{name} {number}")
        if number % 2:
            yield f"flipped {number}", flipped(good, rng)
        else:
            document = changed(yaml.safe_load(good), rng)
            yield f"changed to {document!r}"[:600], json.dumps(document).encode()


def recipes(folder, count):
    """Training with hostile recipes, and grids of ``kat ablate``."""
    good = Path(recipe_path("digits")).read_bytes()
    for number, (name, content) in enumerate(hostile_documents("yaml", good, count)):
        place = folder / f"yaml{number}"
        place.mkdir()
        (place / "recipe.yaml").write_bytes(content)
        words = ["train", "--config=recipe.yaml", *QUICK, "--data.num_workers=0"]
        if number % 4 == 3:
            words = ["ablate", "recipe.yaml", "--out=ablation", "--dry-run"]
        yield f"{words[0]} {name}", partial(call, words, place)


def configs(folder, count):
    """Hostile config.json of a model's folder, and coefficients of ``kat fit``."""
    record = replace(make_record(), classes=[str(digit) for digit in range(10)])
    model = build_model(record)
    for number, (name, content) in enumerate(
        hostile_documents("json", json.dumps(record.to_timm()).encode(), count)
    ):
        place = folder / f"json{number}"
        save_model(model, record, place)
        (place / "config.json").write_bytes(content)
        words = ["eval", str(place), "--data=digits", "--limit=4", "--no-progress"]
        if number % 4 == 3:
            words = ["train", *QUICK, f"--model.args.act_init={place / 'config.json'}"]
        yield f"{words[0]} {name}", partial(call, words, place)


def annotations(items, folder, count):
    """Checks of, and training on, hostile COCO annotations."""
    (path,) = sorted(items.glob("**/instances_train*.json"))
    good = path.read_bytes()
    for number, (name, content) in enumerate(hostile_documents("coco", good, count)):
        place = folder / f"coco{number}"
        shutil.copytree(items, place)
        (place / path.relative_to(items)).write_bytes(content)
        words = ["data", "check", f"coco:{place}"]
        if number % 3 == 2:
            words = [
                "train", f"--data=coco:{place}", "--model.name=kat_det_micro", *QUICK,
                "--data.batch_size=2", "--data.bad_annotations=skip",
            ]  # fmt: skip
        yield f"{words[0]} {name}", partial(call, words, place)


def share(cases):
    """A few of the cases, spread evenly."""
    listed = list(cases)
    return listed[:: max(1, len(listed) // SHARE)]


def test_some_hostile_files(digits_run, items, tmp_path):
    assert_held(
        [
            *damaged_runs(digits_run, tmp_path, SHARE),
            *share(recipes(tmp_path, SHARE)),
            *share(configs(tmp_path, SHARE)),
            *share(annotations(items, tmp_path, SHARE)),
        ]
    )


@pytest.mark.release
def test_damaged_run_directories(digits_run, tmp_path):
    assert_held(damaged_runs(digits_run, tmp_path, COUNTS["run"]))


@pytest.mark.release
def test_hostile_recipes(tmp_path):
    assert_held(recipes(tmp_path, COUNTS["yaml"]))


@pytest.mark.release
def test_hostile_configs(tmp_path):
    assert_held(configs(tmp_path, COUNTS["json"]))


@pytest.mark.release
def test_hostile_annotations(items, tmp_path):
    assert_held(annotations(items, tmp_path, COUNTS["coco"]))
