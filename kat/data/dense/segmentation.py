"""Datasets for semantic segmentation: images with a class for each pixel."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kat.data.decoding import Size, UnreadableImage, decode_bytes, header, read_image, turned_size
from kat.data.dense.dataset import DenseDataset
from kat.data.folders import existing_folder, split_folder
from kat.data.naming import check_unique, is_hidden, is_image
from kat.data.packed_strings import PackedStrings
from kat.errors import InputError
from kat.files import read_text

IGNORE = 255
"""The value of pixels without a class in a mask: neither trained on nor evaluated."""
VOC_CLASSES = [
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
]  # fmt: skip


class SegmentationFiles(NamedTuple):
    """The files of one split.

    Args:
        images, masks: the folders.
        stems: names of the images without their extension; None: all of them.
        classes: class names.
        zero_is_unlabeled: 0 in a mask means no class, and 1 the first class.
    """

    images: Path
    masks: Path
    stems: list[str] | None
    classes: list[str]
    zero_is_unlabeled: bool


def open_segmentation(
    layout: str, root: Path, split: str, bad_annotations: str = "fail"
) -> SegmentationDataset:
    """Open the pairs of image and mask of a split, in the order of their names or their list.

    Args:
        layout: ``"ade20k"``, ``"voc"`` or ``"masks"``; see :func:`find_files`.
        root: the folder.
        split: ``"train"`` or ``"val"``.
        bad_annotations: ``"fail"`` refuses values that are not a class; ``"skip"`` takes such
            pixels for pixels without a class.

    Raises:
        InputError: a folder or file is missing, or there is no pair.

    Examples:
        >>> from pathlib import Path
        >>> from kat.data.dense import open_segmentation
        >>> len(open_segmentation("ade20k", Path("items"), "val"))
        2
    """
    files = find_files(layout, root, split)
    images, masks = _by_stem(files.images), _by_stem(files.masks)
    stems = sorted({*images, *masks}) if files.stems is None else files.stems
    pairs, unpaired = [], {}
    for stem in stems:
        if stem not in images:
            mask = files.masks / masks.get(stem, stem)
            unpaired[str(mask)] = f"it has no image in {files.images}"
        elif stem not in masks:
            unpaired[str(files.images / images[stem])] = f"it has no mask in {files.masks}"
        else:
            pairs.append(stem)
    if not 1 <= len(files.classes) <= IGNORE:
        raise InputError(f"{root} must name 1 to {IGNORE} classes, not {len(files.classes)}")
    source = MaskSource(
        str(files.images),
        PackedStrings.pack(images[stem] for stem in pairs),
        str(files.masks),
        PackedStrings.pack(masks[stem] for stem in pairs),
    )
    return SegmentationDataset(source, files, unpaired, bad_annotations == "skip")


def find_files(layout: str, root: Path, split: str) -> SegmentationFiles:
    """Find the folders of a split, and the names of its classes.

    - ``"ade20k"``: ROOT/images/training/*.jpg and ROOT/annotations/training/*.png; likewise
      validation. The last column of ROOT/objectInfo150.txt names the classes, one per line after
      the first; without that file there are 150 classes, named 1 to 150.
      ROOT/ADEChallengeData2016 may contain all of this.
    - ``"voc"``: the files that ROOT/ImageSets/Segmentation/train.txt or val.txt lists, in
      ROOT/JPEGImages and ROOT/SegmentationClass. ROOT/VOCdevkit/VOC2012 or ROOT/VOC2012 may contain
      all of this.
    - ``"masks"``: ROOT/train/images/* and ROOT/train/masks/*.png of the same names; likewise val.
      ROOT/classes.txt names the classes, one per line: the first is 0 in the masks.

    Raises:
        InputError: a folder or file is missing, or names a class or an image twice.
    """
    inner = {"ade20k": ("ADEChallengeData2016",), "voc": ("VOCdevkit", "VOC2012")}
    for name in inner.get(layout, ()):
        root = root / name if (root / name).is_dir() else root
    if layout == "voc":
        stems = _lines(root / "ImageSets" / "Segmentation" / f"{split}.txt", "image", "images")
        images = existing_folder(root / "JPEGImages")
        masks = existing_folder(root / "SegmentationClass")
        return SegmentationFiles(images, masks, stems, VOC_CLASSES, zero_is_unlabeled=False)
    parent = root / "images" if layout == "ade20k" else root
    folder = existing_folder(split_folder(parent, split) or parent / split)
    if layout == "masks":
        images, masks = existing_folder(folder / "images"), existing_folder(folder / "masks")
        classes = _lines(root / "classes.txt", "class", "classes")
        return SegmentationFiles(images, masks, None, classes, zero_is_unlabeled=False)
    table = root / "objectInfo150.txt"
    classes = list(map(str, range(1, 151)))
    if table.is_file():
        classes = _lines(table, "class", "classes", header=1)
    masks = existing_folder(root / "annotations" / folder.name)
    return SegmentationFiles(folder, masks, None, classes, zero_is_unlabeled=True)


def _lines(path: Path, singular: str, plural: str, header: int = 0) -> list[str]:
    """Return the names in a text file: the last column of the lines below the header."""
    lines = [line for line in read_text(path).splitlines() if line.strip()][header:]
    lines = [line.split("\t")[-1].strip() for line in lines]
    check_unique(lines, path, singular, plural)
    return lines


def _by_stem(folder: Path) -> dict[str, str]:
    """Return the image files of a folder, by their stems."""
    names = sorted(path.name for path in folder.iterdir())
    return {Path(name).stem: name for name in names if is_image(name) and not is_hidden(name)}


@dataclass(frozen=True)
class MaskSource:
    """Files of images and their masks.

    Args:
        images, masks: the folders.
        image_names, mask_names: names of the files, in the same order.
    """

    images: str
    image_names: PackedStrings
    masks: str
    mask_names: PackedStrings

    def __len__(self) -> int:
        return len(self.image_names)

    def name(self, index: int) -> str:
        """Return the path of the image."""
        return os.path.join(self.images, self.image_names[index])

    def read(self, index: int) -> tuple[bytes, tuple[str, bytes]]:
        """Read the bytes of the image; the path of the mask and its bytes."""
        path = os.path.join(self.masks, self.mask_names[index])
        return read_image(self.name(index)), (path, read_image(path))

    def listing(self) -> list[np.ndarray]:
        """Return the names of the images and of the masks."""
        return [*self.image_names.arrays, *self.mask_names.arrays]


class SegmentationDataset(DenseDataset):
    """Images with masks: item i is transform(image, mask), the mask (H, W) uint8.

    A pixel of the mask is a class index or :data:`IGNORE`.

    Args:
        source: the images and masks.
        files: the classes and their values in masks.
        unpaired: images or masks without their counterpart, each with the reason.
        skip: ignore values that are not a class, instead of raising an error.

    Examples:
        >>> from pathlib import Path
        >>> from kat.data.dense import open_segmentation
        >>> data = open_segmentation("ade20k", Path("items"), "train")
        >>> len(data), data.classes[0]
        (4, 'background')
    """

    task = "segmentation"
    labels_are = "one mask per image"

    def __init__(
        self, source: MaskSource, files: SegmentationFiles, unpaired: dict[str, str], skip: bool
    ) -> None:
        super().__init__(source, files.classes, ignored=unpaired)
        if skip:
            self.note = (
                f"{files.masks}: values that are not a class count as {IGNORE};"
                " 'kat data check' lists them"
            )
        self.zero_is_unlabeled = files.zero_is_unlabeled
        self.skip = skip

    @staticmethod
    def collate(images: Sequence[Any], labels: Sequence[Any]) -> tuple[Any, Any]:
        """Stack to (B, C, H, W) and (B, H, W) if all have the same size; lists otherwise."""
        sizes = {tensor.shape[-2:] for tensor in (*images, *labels)}
        if len(sizes) == 1:
            return torch.stack([*images]), torch.stack([*labels])
        return list(images), list(labels)

    def annotated_size(self, label: tuple[str, bytes]) -> Size:
        """Return the size of the mask."""
        path, content = label
        size, orientation = header(content, path)
        return turned_size(size, orientation)

    def target(self, image: Image.Image, annotation: tuple[str, bytes], index: int) -> Tensor:
        """Decode the mask of an image.

        Raises:
            UnreadableImage: the mask cannot be read, or has another size than the image.
            InputError: the mask has a value that is not a class, and ``skip`` is False.
        """
        path, content = annotation
        values = decode_mask(content, path)
        if values.shape != (image.height, image.width):
            raise UnreadableImage(
                path,
                f"it has {values.shape[1]}x{values.shape[0]} pixels, but its image"
                f" {image.width}x{image.height}",
            )
        first = 1 if self.zero_is_unlabeled else 0
        largest = len(self.classes) - 1 + first
        wrong = values[(values < 0) | ((values > largest) & (values != IGNORE))]
        if wrong.size and not self.skip:
            raise InputError(
                f"{path} has the value {wrong.min()}, which is none of the {len(self.classes)}"
                " classes; data.bad_annotations=skip ignores such pixels"
                " ('kat data check' lists all such masks)"
            )
        known = (values >= first) & (values <= largest)
        return torch.from_numpy(np.where(known, values - first, IGNORE).astype(np.uint8))


def decode_mask(content: bytes, path: str) -> np.ndarray:
    """Decode a mask to (H, W) whole numbers: gray values, which RGB may hold, or palette indices.

    Raises:
        UnreadableImage: the mask is damaged, not an image, or has colors or fractions.
    """
    image = decode_bytes(content, path, rgb=False)
    values = np.asarray(image)
    if image.mode == "RGB" and (values == values[..., :1]).all():
        return values[..., 0]
    if values.ndim != 2 or values.dtype.kind == "f":
        raise UnreadableImage(
            path,
            "a mask has one whole number per pixel, as gray level or index of a palette, but this"
            f" one has colors or fractions (mode {image.mode})",
        )
    # Pillow multiplies the gray levels of a PNG of 2 or 4 bits, to white as 255.
    is_gray = content.startswith(b"\x89PNG") and content[25] == 0
    scale = {2: 85, 4: 17}.get(content[24], 1) if is_gray else 1
    if values.dtype == bool:
        return values.astype(np.uint8)
    return values // scale if scale > 1 else values
