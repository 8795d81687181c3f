"""Opens datasets by name."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from kat.data.config import DataConfig
from kat.data.dataset import ImageDataset
from kat.data.dense.detection import open_coco
from kat.data.dense.segmentation import open_segmentation
from kat.data.naming import LAYOUTS
from kat.data.sources.folder import open_folder
from kat.data.sources.holdout import open_array_split
from kat.data.sources.huggingface import open_huggingface
from kat.data.sources.small import FASHION_MNIST_DEBIAN, open_digits, open_fashion_mnist
from kat.data.sources.table import open_table
from kat.data.sources.tar import open_tar
from kat.data.sources.torchvision_datasets import open_torchvision
from kat.data.sources.webdataset import open_webdataset
from kat.errors import InputError, unknown
from kat.text import quoted

_NAMES = [
    "digits", "fashion_mnist", "fashion_mnist:PATH", "folder:PATH", "csv:FILE", "tar:PATH",
    "wds:PATH", "hf:PATH_OR_NAME", "hfds/NAME", "coco:PATH",
    *(f"{layout}:PATH" for layout in LAYOUTS), "torch/NAME",
]  # fmt: skip
_OF_HUGGING_FACE = ("hf:", "hfds/")
_OF_LIBRARIES = ("torch/", *_OF_HUGGING_FACE)
_USED_BY: dict[str, tuple[str, ...]] = {
    "root": _OF_LIBRARIES,
    "train_split": _OF_LIBRARIES,
    "val_split": ("folder:", "csv:", *_OF_LIBRARIES),
    "download": _OF_LIBRARIES,
    "num_classes": ("wds:", *_OF_LIBRARIES),
    "label_key": ("csv:", "wds:", *_OF_HUGGING_FACE),
    "image_key": ("csv:", *_OF_HUGGING_FACE),
    "boxes_only": ("coco:",),
    "validate_on": ("digits", "fashion_mnist", "folder:", "csv:", *_OF_HUGGING_FACE),
}
"""The settings of some datasets only, each with the beginnings of their names."""


def open_split(config: DataConfig, split: str, *, strict: bool = True) -> ImageDataset:
    """Open a split of the dataset ``config.name``.

    Args:
        config: the settings of the data.
        split: ``"train"`` or ``"val"``.
        strict: refuse a folder of a class that has no image, which training cannot use.

    Raises:
        InputError: the name is unknown, a folder or file is missing, empty or damaged, or a setting
            has no effect on the dataset.

    Examples:
        >>> from kat.data import DataConfig, open_split
        >>> photos = open_split(DataConfig("folder:photos"), "train")
        >>> photos.classes, len(photos)
        (['cat', 'dog'], 8)
    """
    if config.name.startswith(("hfids/", "tfds/", "wds/")):
        raise InputError(
            f"{config.name!r} is a stream that kat does not read: give hf:NAME, which"
            " data.download=true fetches, or wds:PATH for WebDataset shards"
        )
    kind, colon, path = config.name.partition(":")
    if colon and not path:
        raise InputError(f"{kind}: needs a path, as in {kind}:PATH")
    for name in sorted(unused_settings(config.name)):
        value = getattr(config, name)
        if value != getattr(DataConfig, name):
            raise InputError(f"data.{name}={value} has no effect on {kind}: leave it out")
    data = _open(config, split, strict)
    data.exif = config.exif
    if data.ignored and config.bad_images == "fail":
        path, reason = next(iter(data.ignored.items()))
        raise InputError(f"{path}: {reason} ({len(data.ignored)} such in {config.name})")
    return data


def _open(config: DataConfig, split: str, strict: bool) -> ImageDataset:
    kind, _, path = config.name.partition(":")
    match kind:
        case "digits":
            return open_array_split(config, open_digits, split)
        case "fashion_mnist":
            folder = Path(path) if path else FASHION_MNIST_DEBIAN
            return open_array_split(config, partial(open_fashion_mnist, folder), split)
        case "folder":
            return open_folder(config, path, split, strict=strict)
        case "csv":
            return open_table(config, path, split)
        case "tar":
            return open_tar(path, split)
        case "wds":
            return open_webdataset(config, path, split)
        case "hf":
            return open_huggingface(config, path, split)
        case "coco":
            return open_coco(Path(path), split, config.bad_annotations, config.boxes_only)
        case _ if kind in LAYOUTS:
            return open_segmentation(LAYOUTS[kind], Path(path), split, config.bad_annotations)
    if config.name.startswith("hfds/"):
        return open_huggingface(config, config.name.removeprefix("hfds/"), split)
    if config.name.startswith("torch/"):
        return open_torchvision(config, split)
    if Path(config.name).exists():
        likely = "folder" if Path(config.name).is_dir() else "csv"
        raise InputError(f"dataset {config.name!r} has no kind: give '{likely}:{config.name}'")
    raise unknown("dataset", config.name, _NAMES)


def unused_settings(name: str) -> set[str]:
    """Return the settings that a dataset of this name does not use.

    Examples:
        >>> from kat.data.sources.registry import unused_settings
        >>> sorted(unused_settings("wds:shards"))
        ['boxes_only', 'download', 'image_key', 'root', 'train_split', 'val_split', 'validate_on']
    """
    return {setting for setting, users in _USED_BY.items() if not name.startswith(users)}


def check_classes(train: ImageDataset, val: ImageDataset) -> None:
    """Check that both splits have the same classes in the same order, and enough of them.

    Raises:
        InputError: names the classes that one split lacks; or there is one class alone to tell
            apart, or nothing to validate on; or only the training split has masks of objects.

    Examples:
        >>> from kat.data import DataConfig, check_classes, open_split
        >>> config = DataConfig("digits")
        >>> check_classes(open_split(config, "train"), open_split(config, "val"))
    """
    if train.task == ImageDataset.task and len(train.classes) < 2:
        listed = quoted(train.classes, "class", "classes")
        raise InputError(f"a classifier tells two or more classes apart, and the data has {listed}")
    if len(val) == 0:
        raise InputError(
            "the validation split has no image: data.holdout holds out none of a class with one"
            " image"
        )
    for split, had, other in (("val", val, train), ("train", train, val)):
        missing = sorted(set(other.classes) - set(had.classes))
        if missing:
            raise InputError(f"the {split} split lacks {quoted(missing, 'class', 'classes')}")
    if train.classes != val.classes:
        raise InputError("the classes of the two splits are in different orders")
    if getattr(train, "has_masks", False) and not getattr(val, "has_masks", False):
        raise InputError(
            "the annotations of the train split have masks, and the val split's have none:"
            " data.boxes_only=true trains on boxes alone"
        )
