"""The data sets by name: the one door to where images, labels and class names come from."""

from __future__ import annotations

from pathlib import Path

from kat.data.config import DataConfig
from kat.data.dataset import ImageSet, ImageStream
from kat.data.dense.coco.dataset import open_coco
from kat.data.dense.semantic.dataset import open_semantic
from kat.data.dense.semantic.layout import LAYOUTS
from kat.data.sources.folder import open_folder
from kat.data.sources.huggingface import open_rows
from kat.data.sources.small import FASHION_MNIST_DEBIAN, open_digits, open_fashion_mnist
from kat.data.sources.tar import open_tar
from kat.data.sources.timm_datasets import TIMM_PREFIXES, open_timm
from kat.data.sources.webdataset import open_shards
from kat.errors import InputError, unknown
from kat.text import quoted

_NAMES = [
    "digits",
    "fashion_mnist",
    "fashion_mnist:PATH",
    "folder:PATH",
    "tar:PATH",
    "wds:PATH",
    "hf:PATH_OR_NAME",
    "hfds/NAME",
    "coco:PATH",
    *(f"{layout}:PATH" for layout in LAYOUTS),
    *(f"{prefix}/NAME" for prefix in TIMM_PREFIXES),
]


def open_split(config: DataConfig, split: str, seed: int = 0) -> ImageSet | ImageStream:
    """Opens the ``"train"`` or ``"val"`` split of the data set that ``config.name`` names.

    The seed is for streamed data sets, which shuffle themselves.

    Raises:
        InputError: an unknown name; a folder or file that is missing, empty or damaged.
    """
    kind, _, path = config.name.partition(":")
    prefix, slash, rest = config.name.partition("/")
    if kind == "digits":
        return open_digits(split)
    if kind == "fashion_mnist":
        return open_fashion_mnist(Path(path) if path else FASHION_MNIST_DEBIAN, split)
    if kind == "folder":
        return open_folder(Path(path), split, config.bad_images, config.holdout)
    if kind == "tar":
        return open_tar(Path(path), split, config.bad_images)
    if kind == "wds":
        return open_shards(
            path,
            split,
            config.bad_images,
            label_key=config.label_key,
            num_classes=config.num_classes,
        )
    if kind == "hf":
        return open_rows(config, path, split)
    if kind == "coco":
        return open_coco(Path(path), split, config.bad_annotations)
    if kind in LAYOUTS:
        return open_semantic(kind, Path(path), split, config.bad_annotations)
    if prefix == "hfds" and rest:
        return open_rows(config, rest, split)
    if prefix in TIMM_PREFIXES and slash:
        return open_timm(config, split, seed)
    raise unknown("data set", config.name, _NAMES)


def task_of_data(name: str) -> str:
    """What data sets of this name are for, e.g. ``"detection"``."""
    kind = name.partition(":")[0]
    if kind == "coco":
        return "detection"
    return "segmentation" if kind in LAYOUTS else "classification"


def check_classes(train: ImageSet | ImageStream, val: ImageSet | ImageStream) -> None:
    """Checks that both splits have the same classes in the same order.

    Raises:
        InputError: names the classes that only one split has.
    """
    if train.classes == val.classes:
        return
    for split, extra in (
        ("val", sorted(set(train.classes) - set(val.classes))),
        ("train", sorted(set(val.classes) - set(train.classes))),
    ):
        if extra:
            raise InputError(f"the {split} split lacks {quoted(extra, 'class', 'classes')}")
    raise InputError("the classes of the two splits are in different orders")
