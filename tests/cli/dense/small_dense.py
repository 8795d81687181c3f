"""Small detectors and segmentation models, and what the commands say of their images."""

from __future__ import annotations

import json
import shutil

import numpy as np
from PIL import Image

from tests.cli.commands import run

MODELS = {
    "detection": (
        "kat_det_micro",
        "{depth: 1, embed_dim: 32, num_heads: 2, global_blocks: [0], channels: 32,"
        " rcnn: {box_score_thresh: 0.0}}",
    ),
    "segmentation": (
        "kat_upernet_micro",
        "{depth: 2, global_blocks: [1], scales: [2.0, 0.5], embed_dim: 32, num_heads: 2,"
        " channels: 16, auxiliary: 8, norm: layer}",
    ),
}


def pictures(items, count=2):
    return sorted((items / "images" / "validation").iterdir())[:count]


def said_of(path, checkpoint, folder, *options):
    """The answer of ``kat predict`` on an image, and the mask where there is one."""
    written, pictures = folder / "answers.json", folder / "pictures"
    shutil.rmtree(pictures, ignore_errors=True)  # of the answer before
    assert run(
        "predict", path, "--checkpoint", checkpoint, "--json", written, "--out", pictures,
        "--trust", *options,
    ) == 0  # fmt: skip
    (answer,) = json.loads(written.read_text())
    mask = pictures / f"{path.stem}_mask.png"
    return answer, np.asarray(Image.open(mask)) if mask.is_file() else None
