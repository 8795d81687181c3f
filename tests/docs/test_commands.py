"""The commands of README and docs run one after the other, as the pages have them, on tiny data."""

from __future__ import annotations

import glob
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch

from tests.cli.commands import QUICK, run
from tests.cli.dense.small_dense import MODELS
from tests.cli.test_docs import PAGES, commands_of_page
from tests.data.sources.test_table import rows_of, write_table
from tests.docs.public import ROOT
from tests.docs.test_examples import run_code_of
from tests.images import picture, write_fashion_mnist, write_folder

LEFT_OUT = {
    "hf:ORG/NAME": "the Hub", "wandb": "an account of W&B", "official.pth": "ImageNet",
    "--interpreter": "minutes", "models.csv --metric": "the runs of a grid",
    "hf:/data": "test_data_sources", "tar:": "test_data_sources", "wds:": "test_data_sources",
}  # fmt: skip
"""Parts of the commands that do not run here, and what they need or the test that has them."""
PLACES = {
    r"folder:(PATH|/data/\w+)": "folder:photos", r"coco:\S+": "coco:items", "/shared/": "",
    r"ade20k:\S+": "ade20k:items", "csv:": "csv:photos/", r"\$scheme": "trunc_normal",
    "PROJECT --replace": "project --replace --force", "PROJECT": "project",
    "RUN ": "runs/items_detection ", "kat_small.pth": "vit_small_patch16_224",
}  # fmt: skip
"""Data and runs that the commands name, and what they are here."""
SMALL = [*QUICK, "--epochs", "1", "--accelerator", "cpu", "--data.num_workers", "0"]
SMALL += ["--data.batch_size", "2"]


@pytest.mark.release
def test_the_commands_of_pages_run(items, own_cache, tmp_path, monkeypatch):
    lines = [*dict.fromkeys(line for page in PAGES for line in commands_of_page(page))]
    left = {line: part for line in lines for part in LEFT_OUT if part in line}
    assert {*left.values()} == {*LEFT_OUT}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("timm.models._builder.load_pretrained", lambda *_, **__: None)  # offline
    _write_files(items)
    assert [line for line in lines if line not in left and run(*_words(line))] == []
    target = {"boxes": torch.tensor([[1.0, 1, 9, 9]]), "labels": torch.tensor([1])}
    target["masks"] = torch.ones(1, 64, 64, dtype=torch.bool)
    images = [torch.rand(3, 64, 64)] * 2
    run_code_of("docs/dense.md", images=images, targets=[target] * 2, image=images[0].numpy())


def _words(line):
    """The words of a command on the data of the test, with options that make it short."""
    for name, place in PLACES.items():
        line = re.sub(name, place, line)
    words = [w for word in shlex.split(line)[1:] for w in sorted(glob.glob(word)) or [word]]
    for folder in ("pictures", "report"):  # several commands write to a new folder of this name
        shutil.rmtree(folder, ignore_errors=True)
    if words[0] != "train":
        return [*words, *(["--dry-run"] if words[0] == "ablate" else [])]
    words += [*SMALL, *([] if "--resume" in words else ["--overwrite"])]
    for name, more in {
        "imagenet_": ["--dry-run", "--data.image_size", "224", "--data", "folder:photos"],
        "(coco|ade20k)_": ["--dry-run", "--data.image_size", "64"],
        "fashion": ["--data", "fashion_mnist:."],
    }.items():
        words += more if re.search(name, line) else []
    return words


def _write_files(items):
    """Write the images, tables, recipes and runs that the commands read."""
    for path in (items, ROOT / "benchmarks", ROOT / "examples"):
        Path(path.name).symlink_to(path)
    write_folder(Path("photos"), classes=2, train=10, val=2)
    write_table(Path("photos/labels.csv"), rows_of(Path("photos"), whole=False))
    write_fashion_mnist(Path(), train=20, val=10)
    Path("project").mkdir()
    Path("project/net.py").write_text("from kat_rational import KAT_Group\n")
    for name in ("cat", "dog", "street"):
        Path(f"{name}.jpg").write_bytes(picture())
    write_table(Path("measured.csv"), [(x / 9, x * x) for x in range(-20, 20)], ("x", "y"))
    for page, file in (("evaluation", "my_grid"), ("reference/configuration", "mine")):
        text = (ROOT / "docs" / f"{page}.md").read_text()
        Path(f"{file}.yaml").write_text(re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)[0])
    trained = {"digits": ["--config", "digits", "--monitor"], "mine": ["--data", "folder:photos"]}
    for (task, (name, args)), out in zip(MODELS.items(), ("items_detection", "ade"), strict=True):
        trained[out] = ["--config", f"examples/items_{task}.yaml", "--model.name", name]
        trained[out] += ["--model.args", args]
    for name, options in trained.items():
        assert run("train", *options, "--out", f"runs/{name}", *SMALL) == 0
    for name in ("kat", "vit", "a", "b", "kat-seed0", "vit-seed0", "variance_preserving"):
        shutil.copytree("runs/digits", f"runs/{name}")
    for name in ("runs/other", "CHECKPOINT"):
        shutil.copytree("runs/mine", name)
    Path("runs/ablation").mkdir()
    for name in ("models", "components", "groups"):
        shutil.copy(f"benchmarks/results/paper/paper_{name}.csv", f"runs/ablation/{name}.csv")
