"""Where people keep images and their masks of classes: ADE20K's layout, Pascal VOC's, pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kat.data.packed import PackedStrings
from kat.data.splits import SPLIT_NAMES, is_hidden, is_image
from kat.errors import InputError
from kat.text import either, quoted


@dataclass(frozen=True)
class SemanticPlace:
    """The files of one split.

    Args:
        images, masks: the folders.
        image_names, mask_names: of the files of each pair, in one order.
        classes: their names.
        zero_is_unlabelled: whether 0 in a mask is no class, and 1 the first of them.
        unpaired: files without the other of their pair, each with what it lacks.
    """

    images: Path
    masks: Path
    image_names: PackedStrings
    mask_names: PackedStrings
    classes: list[str]
    zero_is_unlabelled: bool
    unpaired: dict[str, str]


def find_ade20k(root: Path, split: str) -> SemanticPlace:
    """ROOT/images/training/*.jpg, ROOT/annotations/training/*.png; also validation.

    ROOT/objectInfo150.txt names the classes, one a line after the first, in the last column;
    without it there are 150, which are called 1 to 150. ROOT/ADEChallengeData2016 may hold it all.
    """
    root = _inner(root, "ADEChallengeData2016")
    info = root / "objectInfo150.txt"
    classes = _ade_names(info) if info.is_file() else [str(number) for number in range(1, 151)]
    images = _split_folder(root / "images", split)
    masks = _folder(root / "annotations" / images.name)
    return _paired(images, masks, None, classes, zero_is_unlabelled=True)


def find_voc(root: Path, split: str) -> SemanticPlace:
    """ROOT/JPEGImages, ROOT/SegmentationClass, ROOT/ImageSets/Segmentation/train.txt and val.txt.

    ROOT/VOCdevkit/VOC2012 or ROOT/VOC2012 may hold it all. 255 marks borders, which are no class.
    """
    root = _inner(_inner(root, "VOCdevkit"), "VOC2012")
    listed = root / "ImageSets" / "Segmentation" / f"{split}.txt"
    stems = _lines(listed)
    _check_once(stems, listed, "image", "images")
    images, masks = _folder(root / "JPEGImages"), _folder(root / "SegmentationClass")
    return _paired(images, masks, stems, VOC_CLASSES, zero_is_unlabelled=False)


def find_masks(root: Path, split: str) -> SemanticPlace:
    """ROOT/train/images/*, ROOT/train/masks/*.png of the same names; ROOT/classes.txt.

    The file names the classes, one a line: the first is 0 in the masks, and 255 is none.
    """
    folder = _split_folder(root, split)
    names = root / "classes.txt"
    classes = _classes(_lines(names), names, 255)
    images, masks = _folder(folder / "images"), _folder(folder / "masks")
    return _paired(images, masks, None, classes, zero_is_unlabelled=False)


LAYOUTS: dict[str, Callable[[Path, str], SemanticPlace]] = {
    "ade20k": find_ade20k,
    "voc": find_voc,
    "masks": find_masks,
}
"""By the word before the colon in ``data.name``."""


def _paired(
    images: Path,
    masks: Path,
    stems: Sequence[str] | None,
    classes: list[str],
    *,
    zero_is_unlabelled: bool,
) -> SemanticPlace:
    """Images and masks of the same names, of these or of all in the two folders."""
    image_of, mask_of = _by_stem(images), _by_stem(masks)
    if stems is None:
        stems = sorted({*image_of, *mask_of})
    whole = [stem for stem in stems if stem in image_of and stem in mask_of]
    if not whole:
        raise InputError(f"no image in {images} has a mask of its name in {masks}")
    unpaired = {
        str(images / image_of[stem]) if stem in image_of else str(masks / stem): (
            f"there is no mask of this name in {masks}"
            if stem in image_of
            else f"there is no image of this name in {images}"
        )
        for stem in stems
        if stem not in image_of or stem not in mask_of
    }
    return SemanticPlace(
        images,
        masks,
        PackedStrings.of(image_of[stem] for stem in whole),
        PackedStrings.of(mask_of[stem] for stem in whole),
        classes,
        zero_is_unlabelled,
        unpaired,
    )


def _by_stem(folder: Path) -> dict[str, str]:
    """The image files of a folder by their names without endings."""
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
        raise InputError(f"the data folder {str(path)!r} does not exist")
    return path


def _split_folder(root: Path, split: str) -> Path:
    for name in SPLIT_NAMES[split]:
        if (root / name).is_dir():
            return root / name
    _folder(root)
    raise InputError(f"{root} has no folder {either(SPLIT_NAMES[split])}")


def _lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    return [line.strip() for line in lines if line.strip()]


def _ade_names(path: Path) -> list[str]:
    """The last column of ADE20K's table of classes: ``Idx  Ratio  Train  Val  Name``."""
    names = [line.split("\t")[-1].strip() for line in _lines(path)[1:]]
    return _classes(names, path, 254)


def _classes(names: list[str], path: Path, most: int) -> list[str]:
    """The names that a file has, if they are classes: at least one, and each once."""
    if not 1 <= len(names) <= most:
        raise InputError(f"{path} must name 1 to {most} classes, not {len(names)}")
    _check_once(names, path, "class", "classes")
    return names


def _check_once(names: list[str], path: Path, one: str, several: str) -> None:
    again = [name for name, count in Counter(names).items() if count > 1]
    if again:
        raise InputError(f"{path} names {quoted(again, one, several)} more than once")


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
