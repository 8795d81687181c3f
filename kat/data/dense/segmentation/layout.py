"""Finds images and their class masks: the layouts of ADE20K and Pascal VOC, and plain pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kat.data.naming import SPLIT_NAMES, check_unique, is_hidden, is_image
from kat.data.packed_strings import PackedStrings
from kat.errors import InputError
from kat.files import read_text
from kat.text import either


@dataclass(frozen=True)
class SegmentationFiles:
    """The files of one split.

    Args:
        images, masks: the folders.
        image_names, mask_names: names of the files, in the same order.
        classes: class names.
        zero_is_unlabeled: whether 0 in a mask means no class, and 1 the first class.
        unpaired: images or masks without their counterpart, each with the reason.
    """

    images: Path
    masks: Path
    image_names: PackedStrings
    mask_names: PackedStrings
    classes: list[str]
    zero_is_unlabeled: bool
    unpaired: dict[str, str]


def find_ade20k(root: Path, split: str) -> SegmentationFiles:
    """Finds ROOT/images/training/*.jpg and ROOT/annotations/training/*.png; likewise validation.

    The last column of ROOT/objectInfo150.txt names the classes, one per line after the first;
    without that file there are 150 classes, named 1 to 150. ROOT/ADEChallengeData2016 may contain
    all of this.
    """
    root = _inner(root, "ADEChallengeData2016")
    info = root / "objectInfo150.txt"
    classes = _ade_names(info) if info.is_file() else [str(number) for number in range(1, 151)]
    images = _split_folder(root / "images", split)
    masks = _folder(root / "annotations" / images.name)
    return _paired(images, masks, None, classes, zero_is_unlabeled=True)


def find_voc(root: Path, split: str) -> SegmentationFiles:
    """Finds the files that ROOT/ImageSets/Segmentation/train.txt or val.txt lists.

    They are in ROOT/JPEGImages and ROOT/SegmentationClass. ROOT/VOCdevkit/VOC2012 or ROOT/VOC2012
    may contain all of this. 255 marks borders, which have no class.
    """
    root = _inner(_inner(root, "VOCdevkit"), "VOC2012")
    listed = root / "ImageSets" / "Segmentation" / f"{split}.txt"
    stems = _lines(listed)
    check_unique(stems, listed, "image", "images")
    images, masks = _folder(root / "JPEGImages"), _folder(root / "SegmentationClass")
    return _paired(images, masks, stems, VOC_CLASSES, zero_is_unlabeled=False)


def find_masks(root: Path, split: str) -> SegmentationFiles:
    """Finds ROOT/train/images/* and ROOT/train/masks/*.png of the same names; likewise val.

    ROOT/classes.txt names the classes, one per line: the first is 0 in the masks. 255 means no
    class.
    """
    folder = _split_folder(root, split)
    names = root / "classes.txt"
    classes = _classes(_lines(names), names, 255)
    images, masks = _folder(folder / "images"), _folder(folder / "masks")
    return _paired(images, masks, None, classes, zero_is_unlabeled=False)


LAYOUTS: dict[str, Callable[[Path, str], SegmentationFiles]] = {
    "ade20k": find_ade20k,
    "voc": find_voc,
    "masks": find_masks,
}
"""Functions that find the files of a split, by the prefix of ``data.name``."""


def _paired(
    images: Path,
    masks: Path,
    stems: Sequence[str] | None,
    classes: list[str],
    *,
    zero_is_unlabeled: bool,
) -> SegmentationFiles:
    """Pairs images and masks by their stems: those given, or all in the two folders."""
    image_of, mask_of = _by_stem(images), _by_stem(masks)
    if stems is None:
        stems = sorted({*image_of, *mask_of})
    complete = [stem for stem in stems if stem in image_of and stem in mask_of]
    if not complete:
        raise InputError(f"no image in {images} has a mask of the same name in {masks}")
    unpaired = {
        str(images / image_of[stem]) if stem in image_of else str(masks / stem): (
            f"it has no mask in {masks}" if stem in image_of else f"it has no image in {images}"
        )
        for stem in stems
        if stem not in image_of or stem not in mask_of
    }
    return SegmentationFiles(
        images,
        masks,
        PackedStrings.pack(image_of[stem] for stem in complete),
        PackedStrings.pack(mask_of[stem] for stem in complete),
        classes,
        zero_is_unlabeled,
        unpaired,
    )


def _by_stem(folder: Path) -> dict[str, str]:
    """The image files of a folder, by their stems."""
    found: dict[str, str] = {}
    for name in sorted(path.name for path in folder.iterdir()):
        if is_image(name) and not is_hidden(name):
            stem = Path(name).stem
            if stem in found:
                raise InputError(f"{folder} has two images of one name: {found[stem]} and {name}")
            found[stem] = name
    return found


def _inner(root: Path, name: str) -> Path:
    return root / name if (root / name).is_dir() else root


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise InputError(f"the data folder {str(path)!r} does not exist: --data names it")
    return path


def _split_folder(root: Path, split: str) -> Path:
    for name in SPLIT_NAMES[split]:
        if (root / name).is_dir():
            return root / name
    _folder(root)
    raise InputError(f"{root} has no folder {either(SPLIT_NAMES[split])}")


def _lines(path: Path) -> list[str]:
    """The nonempty lines of a text file."""
    lines = read_text(path).splitlines()
    return [line.strip() for line in lines if line.strip()]


def _ade_names(path: Path) -> list[str]:
    """The last column of ADE20K's table of classes: ``Idx  Ratio  Train  Val  Name``."""
    names = [line.split("\t")[-1].strip() for line in _lines(path)[1:]]
    return _classes(names, path, 254)


def _classes(names: list[str], path: Path, most: int) -> list[str]:
    """The class names in a file: at least one, and each once."""
    if not 1 <= len(names) <= most:
        raise InputError(f"{path} must name 1 to {most} classes, not {len(names)}")
    check_unique(names, path, "class", "classes")
    return names


VOC_CLASSES = [
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
]
