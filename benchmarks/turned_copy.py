"""Accuracy on a folder of photographs and on its copy as a camera held at an angle would store it.

Writes scikit-learn's digits as image files, trains on them, and evaluates on the validation folder
and on two copies of it, whose pixels are turned, each by one of EXIF's eight orientations, and
whose EXIF turns them back: one lossless (PNG), one as cameras store it (JPEG). The last column
reads the copies with data.exif=ignore.

    python benchmarks/turned_copy.py [--epochs 12]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageOps

from kat.data import DataConfig, open_split

_UNDO = {6: 8, 8: 6}
"""The EXIF orientations whose opposite is another."""


def write_copy(source: Path, copy: Path, kind: str) -> None:
    """Copies the files of a folder, with turned pixels and the EXIF that turns them back."""
    for number, path in enumerate(sorted(source.glob("*/*"))):
        orientation = number % 8 + 1
        exif = Image.Exif()
        exif[0x0112] = _UNDO.get(orientation, orientation)
        turned = Image.open(path)
        turned.info["exif"] = exif.tobytes()
        turned = ImageOps.exif_transpose(turned)
        exif[0x0112] = orientation
        target = copy / path.parent.name / f"{path.stem}.{kind}"
        target.parent.mkdir(parents=True, exist_ok=True)
        turned.save(target, exif=exif, **({"quality": 98} if kind == "jpg" else {}))


def write_digits(root: Path) -> None:
    """Writes both splits of the digits, one folder per class."""
    for split in ("train", "val"):
        data = open_split(DataConfig(name="digits"), split)
        for index in range(len(data)):
            image, label = data[index]
            path = root / split / data.classes[label] / f"{index:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)


def kat(*arguments: object) -> None:
    """Calls the command."""
    subprocess.run(
        [sys.executable, "-m", "kat_command", *map(str, arguments)],
        check=True,
        stdout=subprocess.DEVNULL,
    )


def main() -> None:
    """Trains once, evaluates each folder, prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--epochs", type=int, default=12)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_digits(root / "upright")
        for kind in ("png", "jpg"):
            write_copy(root / "upright" / "val", root / kind / "val", kind)
        kat(
            "train", "--config", "digits", "--data", f"folder:{root / 'upright'}",
            "--out", root / "run", "--epochs", options.epochs, "--optim.warmup-epochs", 2,
            "--data.image-size", 8, "--data.channels", 1,
        )  # fmt: skip
        print(f"{'validation images':24}{'top-1 %':>10}{'loss':>12}{'exif=ignore':>14}")
        for folder, title in (
            ("upright", "upright"),
            ("png", "turned, PNG"),
            ("jpg", "turned, JPEG"),
        ):
            rows = []
            for exif in ("upright", "ignore"):
                report = root / f"{folder}-{exif}.json"
                kat(
                    "eval", root / "run", "--data", f"folder:{root / folder}",
                    "--data.exif", exif, "--json", report,
                )  # fmt: skip
                rows.append(json.loads(report.read_text()))
            upright, ignored = rows
            print(
                f"{title:24}{upright['top1']:10.2f}{upright['loss']:12.6f}{ignored['top1']:14.2f}"
            )


if __name__ == "__main__":
    main()
