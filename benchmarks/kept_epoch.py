"""Which epoch of a run on few images to keep: five rules on 30 small datasets.

    npm pack emoji-datasource-google@16.0.0 emoji-datasource-twitter@16.0.0    # and unpack both
    apt-get install dataset-fashion-mnist
    python benchmarks/kept_epoch.py --emoji FOLDER --csv benchmarks/results/kept_epoch.csv
    python benchmarks/kept_epoch.py --csv benchmarks/results/kept_epoch.csv --table

FOLDER holds the unpacked packages google/package and twitter/package. Each dataset is trained once,
by the settings of `kat train --data folder:SET`, which holds a tenth of each class out. A run
validates the weights and their EMA (decay 0.99) after each epoch, on the images held out and on
test images that no rule sees.

Declared before the first run. The rules, among all epochs:
  top1      highest top-1 on the images held out, for equal ones the lower loss: the library's rule
  loss      lowest loss on the images held out
  last      the last epoch
  ema       the EMA after the last epoch
  ema_top1  the EMA with the highest top-1 on the images held out, for equal ones the lower loss
Primary contrast: test top-1 of `top1` minus `last`, the mean over the datasets with the 95 %
interval of Student's t. The rule with the highest mean is taken, if its interval against `top1`
lies above 0; else `top1` stays.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from scipy.stats import t
from timing import print_table
from torch import Tensor
from torch.nn import functional

from kat.data import Batch, DataConfig, open_split
from kat.data.transforms import read_images
from kat.tables import write_table
from kat.training.engine.build import build
from kat.training.engine.loop import fit
from kat.training.optim.ema import EMA
from kat.training.record.provenance import provenance
from kat.training.record.run import Callback, Run
from kat.training.settings.recipes import config_of_run
from kat.training.settings.resolve import resolve

SIZES = {
    "fashion": (100, 150, 200, 300, 500, 700, 1000, 1400, 2000, 2000),
    "digits": (100, 150, 200, 250, 300, 400, 500, 600, 800, 1000),
    "emoji": (100, 130, 160, 200, 250, 300, 350, 400, 450, 500),
}
"""Training images, those held out included, of the datasets of each source; seeds count from 0."""
TEST = 500
"""The most test images."""
EMOJI = ("Animals & Nature", "Food & Drink", "Objects", "Travel & Places", "Symbols")
"""The classes: training images are in Google's style, test images in Twitter's."""
RULES = ("top1", "loss", "last", "ema", "ema_top1")


def main() -> None:
    """Make the runs that the file lacks, or print the table."""
    parser = argparse.ArgumentParser(description="Make the runs that the CSV file lacks.")
    parser.add_argument("--csv", type=Path, default=Path("benchmarks/results/kept_epoch.csv"))
    parser.add_argument("--emoji", type=Path, help="folder of the unpacked packages")
    parser.add_argument("--table", action="store_true", help="make no runs")
    options = parser.parse_args()
    rows = read_rows(options.csv)
    done = {(row["source"], row["seed"]) for row in rows}
    for source, sizes in SIZES.items():
        for seed, images in enumerate(sizes):
            if options.table or (source, str(seed)) in done:
                continue
            with tempfile.TemporaryDirectory() as folder:
                train_images, test_images = pictures(source, images, seed, options.emoji)
                write_folder(train_images, Path(folder) / "train")
                write_folder(test_images, Path(folder) / "test")
                row = train(source, images, seed, Path(folder))
            add_row(options.csv, row)
            print(row, flush=True)
    print_rows(read_rows(options.csv))


# ---- the datasets


class Picture(NamedTuple):
    """An image, and the name of its class."""

    image: Image.Image
    label: str


def pictures(
    source: str, images: int, seed: int, emoji: Path
) -> tuple[list[Picture], list[Picture]]:
    """Return the training images that a seed draws, and at most TEST test images."""
    generator = np.random.default_rng([seed, images])
    if source == "emoji":
        google, twitter = (
            _emoji(emoji / style / "package", style) for style in ("google", "twitter")
        )
        order = generator.permutation(len(google))
        return [google[i] for i in order[:images]], [twitter[i] for i in order[images:][:TEST]]
    name = "fashion_mnist" if source == "fashion" else source
    train, test = (open_split(DataConfig(name), split) for split in ("train", "val"))
    drawn = generator.permutation(len(train))[:images]
    return [_read(train, i) for i in drawn], [_read(test, i) for i in range(min(len(test), TEST))]


def _read(data: Any, index: int) -> Picture:
    image, label = data.read(int(index))
    return Picture(image, data.classes[label])


def _emoji(package: Path, style: str) -> list[Picture]:
    """Return the emoji of the classes that both packages have, on white."""
    found = []
    for entry in json.loads((package / "emoji.json").read_text()):
        if entry["category"] in EMOJI and entry["has_img_google"] and entry["has_img_twitter"]:
            drawn = Image.open(package / "img" / style / "64" / entry["image"]).convert("RGBA")
            white = Image.new("RGBA", drawn.size, "white")
            image = Image.alpha_composite(white, drawn).convert("RGB")
            found.append(Picture(image, entry["category"]))
    return found


def write_folder(found: list[Picture], folder: Path) -> None:
    """Write images as folder/CLASS/NUMBER.png."""
    for number, picture in enumerate(found):
        path = folder / picture.label.replace("/", "-") / f"{number:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.image.save(path)


# ---- a run


class Recorder(Callback):
    """Measures the weights and their EMA after each epoch, on images held out and on test images.

    Args:
        test: the folder of the test images.
    """

    def __init__(self, test: Path) -> None:
        self.test = test
        self.rows: list[dict[str, float]] = []
        self.held_out: list[tuple[Tensor, Tensor]] = []

    def on_fit_start(self, run: Run) -> None:
        """Read the test images as the model sees them."""
        self.ema = EMA(run.model, 0.99)
        classes = run.record.classes
        paths = sorted(self.test.rglob("*.png"))
        self.labels = torch.tensor([classes.index(path.parent.name) for path in paths])
        self.images = read_images([str(path) for path in paths], run.record)

    def on_batch_end(self, run: Run, index: int, batch: Batch, stepped: bool) -> None:
        """Update the EMA after each step."""
        if stepped:
            self.ema.update()

    def on_validation_batch_end(self, run: Run, index: int, batch: Batch) -> None:
        """Keep the images held out."""
        if not self.rows:
            self.held_out.append((batch.images, batch.labels))

    @torch.no_grad()
    def on_validation_end(self, run: Run, values: Mapping[str, float]) -> None:
        """Measure both."""
        images = torch.cat([batch for batch, _ in self.held_out])
        labels = torch.cat([batch for _, batch in self.held_out])
        row = {"epoch": float(len(self.rows) + 1)}
        run.model.eval()
        row["loss"], row["top1"] = measure(run.model, images, labels)
        _, row["test"] = measure(run.model, self.images, self.labels)
        with self.ema.swapped():
            row["ema_loss"], row["ema_top1"] = measure(run.model, images, labels)
            _, row["ema_test"] = measure(run.model, self.images, self.labels)
        self.rows.append(row)


def measure(model: torch.nn.Module, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return mean cross-entropy and top-1 in percent."""
    outputs = torch.cat([model(batch) for batch in images.split(200)])
    hits = (outputs.argmax(1) == labels).float().mean()
    return functional.cross_entropy(outputs, labels).item(), 100 * hits.item()


def train(source: str, images: int, seed: int, folder: Path) -> dict[str, Any]:
    """Train on folder/train, and return the row of the run."""
    settings = {"data.name": f"folder:{folder / 'train'}", "out": str(folder / "run"), "seed": seed}
    quiet = {"accelerator": "cpu", "progress": False, "data.num_workers": 0}
    run = build(resolve(config_of_run(settings | quiet)))
    recorder = Recorder(folder / "test")
    run.callbacks = [recorder]
    fit(run)
    rows = recorder.rows
    by_top1 = max(rows, key=lambda row: (row["top1"], -row["loss"]))
    by_loss = min(rows, key=lambda row: row["loss"])
    by_ema = max(rows, key=lambda row: (row["ema_top1"], -row["ema_loss"]))
    last = rows[-1]
    return {
        "source": source,
        "images": images,
        "seed": seed,
        "held_out": sum(len(labels) for _, labels in recorder.held_out),
        "epochs": len(rows),
        "epoch_top1": int(by_top1["epoch"]),
        "epoch_loss": int(by_loss["epoch"]),
        "top1": by_top1["test"],
        "loss": by_loss["test"],
        "last": last["test"],
        "ema": last["ema_test"],
        "ema_top1": by_ema["ema_test"],
        "best_possible": max(row["test"] for row in rows),
        **provenance(run.device),
    }


# ---- the rows


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of the file; none if it is not there."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def add_row(path: Path, row: dict[str, Any]) -> None:
    """Add a row to the file."""
    write_table(path, list(row), [*read_rows(path), row])


def print_rows(rows: list[dict[str, str]]) -> None:
    """Print the mean test top-1 of each rule, and its differences with 95 % intervals."""
    table = []
    for rule in (*RULES, "best_possible"):
        own = np.array([float(row[rule]) for row in rows])
        cells = [rule, f"{own.mean():.2f}"]
        for other in ("last", "top1"):
            difference = own - np.array([float(row[other]) for row in rows])
            error = difference.std(ddof=1) / len(rows) ** 0.5
            reach = t.ppf(0.975, len(rows) - 1) * error
            cells.append(f"{difference.mean():+.2f} ± {reach:.2f}")
        table.append(cells)
    print_table(["rule", "test top-1, %", "minus last", "minus top1"], table)
    print(f"{len(rows)} datasets")


if __name__ == "__main__":
    main()
