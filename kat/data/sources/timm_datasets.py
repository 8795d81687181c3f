"""Datasets that timm opens: torchvision's, and streams of Hugging Face, TensorFlow, WebDataset."""

from __future__ import annotations

import os
from collections.abc import Iterator
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import IterableDataset

from kat.data.config import DataConfig
from kat.data.dataset import Encoded, ImageDataset
from kat.data.decoding import UnreadableImage, read_image
from kat.data.loading.stream import ImageStream, Part
from kat.data.naming import class_names
from kat.data.packed_strings import PackedStrings
from kat.data.sources.huggingface import opened_elsewhere
from kat.data.sources.shard_stream import open_shard_stream
from kat.errors import InputError, UnreadableFile


def open_timm(config: DataConfig, split: str, seed: int) -> ImageDataset | ImageStream:
    """Open a split of the dataset ``config.name`` with timm's ``create_dataset``.

    Raises:
        InputError: timm cannot open the dataset, or its classes are unknown.
    """
    from timm.data import create_dataset
    from timm.data.readers.shared_count import SharedCount

    # Only a fork shares it. By value is enough: streams start new workers every epoch.
    ForkingPickler.register(SharedCount, lambda count: (SharedCount, (count.value,)))
    training = split == "train"
    option = "train_split" if training else "val_split"
    wanted = getattr(config, option)
    streamed = config.name.startswith("hfids/")
    if not _is_split(config, wanted):
        raise InputError(
            f"dataset {config.name!r} has no split {wanted!r} (data.{option}) in"
            f" root={config.root!r}; --data folder:PATH holds images out for validation"
        )
    with opened_elsewhere(config):
        dataset = create_dataset(
            config.name,
            root=config.root,
            split=wanted,
            is_training=training,
            download=config.download,
            batch_size=config.batch_size,
            seed=seed,
            input_img_mode="" if streamed else "RGB",  # images that are not decoded have no mode
        )
    reader: Any = getattr(dataset, "reader", None)
    names = getattr(dataset, "wnids", None) or getattr(dataset, "classes", None)
    if names is None:
        indices = getattr(reader, "class_to_idx", None) or {}
        names = sorted(indices, key=indices.__getitem__)
    labels = np.asarray(getattr(dataset, "targets", []))
    largest = int(labels.max(initial=-1)) if labels.ndim == 1 else -1
    classes = class_names([*map(str, names)], config.num_classes, largest, repr(config.name))
    if config.name.startswith("wds/"):
        return open_shard_stream(reader, classes, config, training, seed)
    if isinstance(dataset, IterableDataset):
        if streamed:  # bytes: an error in the reader's own decoder would end the stream
            import datasets

            reader.builder.info.features[reader.input_key] = datasets.Image(decode=False)
        return TimmStream(dataset, classes, config.name)
    return ImageDataset(TimmSource(dataset, config.name), classes)


def _is_split(config: DataConfig, split: str) -> bool:
    """Return False if timm would silently open another split.

    In a dataset with two splits timm takes every name but two for the test images, and in a folder
    without the split the folder itself.
    """
    train = ("train", "training")
    val = ("val", "valid", "validation", "eval", "evaluation")
    kind, _, name = config.name.lower().partition("/")
    if kind == "torch" and name in ("folder", "image_folder"):
        names = next((names for names in (train, val) if split in names), (split,))
        return any(os.path.exists(os.path.join(config.root or "", each)) for each in names)
    two = ("cifar10", "cifar100", "mnist", "kmnist", "fashion_mnist", "qmnist")
    return kind != "torch" or name not in two or split in (*train, *val, "test")


class TimmSource:
    """A map-style dataset of torchvision. If it has a loader of files, that is made to read bytes.

    Args:
        dataset: item i is (PIL image, class index).
        title: name of the dataset in messages.
    """

    def __init__(self, dataset: Any, title: str) -> None:
        self.dataset = dataset
        self.title = title
        if hasattr(dataset, "loader"):
            dataset.loader = read_image

    def __len__(self) -> int:
        return len(self.dataset)

    def name(self, index: int) -> str:
        """Return the path of the file, or the number of the image if it has none."""
        samples = getattr(self.dataset, "samples", None)
        return str(samples[index][0]) if samples else f"image {index} of {self.title}"

    def read(self, index: int) -> tuple[Encoded, int]:
        """Read the image and its label."""
        try:
            return self.dataset[index]
        except Exception as error:  # Pillow raises nearly every kind for damaged files
            own = error.reason if isinstance(error, UnreadableFile) else str(error)
            raise UnreadableImage(self.name(index), own or type(error).__name__) from error

    def listing(self) -> list[np.ndarray]:
        """Return the names of the files and the labels, as far as the dataset lists them."""
        samples = getattr(self.dataset, "samples", [])
        names = PackedStrings.pack(Path(sample[0]).name for sample in samples)
        return [*names.arrays, np.asarray(getattr(self.dataset, "targets", []))]


class TimmStream(ImageStream):
    """A stream that timm reads, and divides between processes and workers.

    Args:
        dataset: dataset of timm; an image is a PIL image, or a mapping with its bytes or path.
        classes: class names, in the order of their indices.
        title: name of the dataset in messages.
    """

    def __init__(self, dataset: Any, classes: list[str], title: str) -> None:
        super().__init__(_nothing, len(dataset), classes, None)
        self.dataset = dataset
        self.title = title

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of the next iteration, also in workers that are running already."""
        super().set_epoch(epoch)
        self._divide()
        self.dataset.set_epoch(epoch)

    def __len__(self) -> int:
        self._divide()
        return len(self.dataset)

    def _divide(self) -> None:
        """Give timm's reader its place: it was opened before the processes met."""
        reader = self.dataset.reader
        reader.dist_rank, reader.dist_num_replicas = self.place

    def __iter__(self) -> Iterator[tuple[Any, int] | UnreadableImage]:
        for number, (image, label) in enumerate(self.dataset):
            name = f"image {number} of a worker's part of {self.title}"
            if not isinstance(image, Image.Image):  # TensorFlow has decoded it otherwise
                name, image = image["path"] or name, image["bytes"]
            yield self._transformed((name, image, label))


def _nothing(epoch: int, part: Part) -> tuple[()]:
    """Take the place of ``ImageStream.read``, which is not used."""
    return ()
