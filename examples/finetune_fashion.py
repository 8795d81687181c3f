"""Fine-tunes kat_micro on 100 images a class of Fashion-MNIST with the defaults of the recipe.

    python examples/finetune_fashion.py --out runs/finetune_fashion

Writes the images as folders of PNG files, as a user's own would be, and trains a kat_micro to start
from on other images: on scikit-learn's digits, for all ten classes; and on the classes 0 to 4 of
Fashion-MNIST, for the classes 5 to 9. Each is fine-tuned by

    kat train --config finetune --data folder:IMAGES --init-from SOURCE

and compared with its linear probe (--model.freeze backbone) and with the same recipe from scratch.
The 10,000 test images are seen by nothing but the last 'kat eval' of each run. Results go to
results.csv. Finished runs of the same settings are kept, and so are the images: another --per_class
needs another --out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import kat_command
from kat.cli.errors import run_command
from kat.cli.options.training_settings import TrainingParser, parse_training
from kat.data import DataConfig, ImageDataset, open_split
from kat.errors import InputError
from kat.tables import write_table
from kat.training import read_settings, settings_to_keep
from kat.training.record.provenance import PROVENANCE
from kat.training.settings.recipes import config_from

TASKS = ("from_digits", "from_garments")
MODEL = "kat_micro_patch4_28"
COLUMNS = ("task", "start", "seed", "train", "top1", "loss", "command")


@dataclass
class Task:
    """What is learned, and from what.

    Args:
        name: of its folder.
        labels: the classes of Fashion-MNIST that are learned.
        source: options of the training that makes the model to start from.
    """

    name: str
    labels: range
    source: list[str]


def main() -> None:
    """Runs the comparison that the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        epilog="Further options go to every 'kat train', e.g. --epochs 2.",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/finetune_fashion"))
    parser.add_argument("--data", default="fashion_mnist", help="or fashion_mnist:PATH")
    parser.add_argument("--per_class", type=int, default=100, help="training images a class")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    options, overrides = parser.parse_known_args()
    train, test = (open_split(DataConfig(name=options.data), split) for split in ("train", "val"))
    garments = options.out / "garments_0_to_4"
    write_images(train, range(5), 10**6, garments / "train")
    write_images(test, range(5), 10**6, garments / "val")
    tasks = [
        Task("from_digits", range(10), ["--config", "digits"]),
        Task(
            "from_garments",
            range(5, 10),
            ["--config", "fashion_mnist", "--data", f"folder:{garments}",
             "--data.channels", "1", "--data.mean", "[0.286]", "--data.std", "[0.353]",
             "--epochs", "4"],
        ),
    ]  # fmt: skip
    rows = []
    for task in tasks:
        if task.name in options.tasks:
            images, unseen = options.out / task.name / "images", options.out / task.name / "test"
            write_images(train, task.labels, options.per_class, images)
            write_images(test, task.labels, 10**6, unseen / "val")
            rows += compare(task, options, overrides)
    write_table(options.out / "results.csv", (*COLUMNS, *PROVENANCE), rows)
    for row in rows:
        print(f"{row['task']}, {row['start']}, seed {row['seed']}: test top-1 {row['top1']:.2f} %")


def compare(
    task: Task, options: argparse.Namespace, overrides: Sequence[str]
) -> list[dict[str, object]]:
    """A row for each way to learn a task, and each seed."""
    folder = options.out / task.name
    source = folder / "source"
    size = ["--model.name", MODEL, "--data.image_size", "28"]
    train_unless_done(source, [*task.source, *size, *overrides])
    tuned = ["--config", "finetune", "--data", f"folder:{folder / 'images'}"]
    start = ["--init-from", str(source)]
    grey = ["--data.channels", "1", "--data.mean", "[0.286]", "--data.std", "[0.353]"]
    ways = {
        "fine-tuned": [*tuned, *start],
        "linear probe": [*tuned, *start, "--model.freeze", "backbone"],
        "from scratch": [*tuned, "--model.name", MODEL, *grey, "--optim.layer_decay", "0.75"],
    }
    rows = []
    for seed in options.seeds:
        for way, arguments in ways.items():
            out = folder / f"{way.replace(' ', '_')}-seed{seed}"
            seeds = [] if seed == 0 else ["--seed", str(seed)]
            seeded = [*arguments, *seeds, *overrides]
            train_unless_done(out, seeded)
            metrics = evaluate(out, folder / "test")
            summary = json.loads((out / "summary.json").read_text())
            rows.append(
                {
                    "task": task.name,
                    "start": way,
                    "seed": seed,
                    "train": options.per_class * len(task.labels),
                    "top1": metrics["top1"],
                    "loss": metrics["loss"],
                    "command": " ".join(["kat train", *seeded]),
                    **{name: summary.get(name) for name in PROVENANCE},
                }
            )
    return rows


def train_unless_done(out: Path, arguments: Sequence[str]) -> None:
    """``kat train`` with these arguments, unless such a run is finished."""
    arguments = [*arguments, "--out", str(out), "--overwrite", "true", "--no-progress"]
    config = config_from(parse_training(TrainingParser(), arguments)[0])
    done = (out / "summary.json").is_file() and read_settings(out) == settings_to_keep(config)
    if not done:
        call("train", *arguments)


def evaluate(run: Path, images: Path) -> dict[str, float]:
    """What ``kat eval`` gives on other images."""
    path = run / "test.json"
    call("eval", str(run), "--data", f"folder:{images}", "--data.batch_size",
         "500", "--no-progress", "--json", str(path))  # fmt: skip
    return json.loads(path.read_text())


def call(*arguments: str) -> None:
    """Runs ``kat`` in this process, and says what it runs."""
    print("$ kat", *arguments, flush=True)
    if kat_command.main(list(arguments)) != 0:
        raise InputError("the command failed")


def write_images(data: ImageDataset, labels: range, per_class: int, folder: Path) -> None:
    """Writes the first images of each class as FOLDER/CLASS/NUMBER.png, unless they are there."""
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    counts = dict.fromkeys(labels, 0)
    with TemporaryDirectory(dir=folder.parent) as temporary:
        draft = Path(temporary, folder.name)
        for index in range(len(data)):
            image, label = data[index]
            if label in counts and counts[label] < per_class:
                target = draft / data.classes[label].replace("/", " or ")
                target.mkdir(parents=True, exist_ok=True)
                image.save(target / f"{counts[label]:05}.png")
                counts[label] += 1
        draft.rename(folder)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
