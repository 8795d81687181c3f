"""Datasets that timm opens: torchvision's, and streams of Hugging Face, TensorFlow, WebDataset."""

from __future__ import annotations

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
from kat.data.numbered_classes import check_num_classes, wrong_label
from kat.data.packed_strings import PackedStrings
from kat.data.sources.shard_stream import open_shard_stream
from kat.data.stream import ImageStream, Part
from kat.errors import InputError, UnreadableFile, unknown
from kat.text import numbered


def open_timm(config: DataConfig, split: str, seed: int) -> ImageDataset | ImageStream:
    """Opens a split of the dataset ``config.name`` with timm's ``create_dataset``.

    Raises:
        InputError: timm cannot open the dataset, or its classes are unknown.
    """
    from timm.data import create_dataset
    from timm.data.readers.shared_count import SharedCount

    # It is shared by a fork alone. By value is enough: streams start new workers every epoch.
    ForkingPickler.register(SharedCount, lambda count: (SharedCount, (count.value,)))
    training = split == "train"
    wanted = config.train_split if training else config.val_split
    streamed = config.name.startswith("hfids/")
    _check_split(config, wanted, training)
    try:
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
    except ImportError as error:  # timm names the package
        raise InputError(f"dataset {config.name!r} needs a package: {error}") from None
    except (AssertionError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error) or type(error).__name__
        hint = "" if config.download else "; data.download=true may fetch it"
        raise InputError(
            f"dataset {config.name!r} cannot be opened with root={config.root!r}: {reason}{hint}"
        ) from None
    classes = _classes(config, dataset)
    reader: Any = getattr(dataset, "reader", None)
    if config.name.startswith("wds/"):
        return open_shard_stream(reader, classes, config, training, seed)
    if isinstance(dataset, IterableDataset):
        if streamed:
            _leave_encoded(reader)
        return TimmStream(dataset, classes, config.name)
    source = TimmSource(dataset, config.name)
    labels = np.asarray(getattr(dataset, "targets", []))
    if labels.ndim == 1 and labels.max(initial=0) >= len(classes):
        index = int(labels.argmax())
        raise InputError(wrong_label(source.name(index), labels[index], len(classes)))
    return ImageDataset(source, classes)


_TRAINING = ("train", "training")
_EVALUATION = ("val", "valid", "validation", "eval", "evaluation", "test")
"""timm's names of the two splits, of which datasets without folders have ``test``, too."""
_TWO_SPLITS = ("cifar10", "cifar100", "mnist", "kmnist", "fashion_mnist", "qmnist")


def _check_split(config: DataConfig, split: str, training: bool) -> None:
    """Checks that timm will not open another split in place of the one that is asked for.

    It takes every name but two for the test images of a dataset with two splits, and a folder
    itself for a split that is not in it.
    """
    kind, _, name = config.name.lower().partition("/")
    option = "train_split" if training else "val_split"
    if kind == "torch" and name in _TWO_SPLITS and split not in (*_TRAINING, *_EVALUATION):
        raise unknown(f"split (data.{option}) of {config.name!r}", split, ("train", "test"))
    if kind == "torch" and name in ("folder", "image_folder"):
        names = next((n for n in (_TRAINING, _EVALUATION[:-1]) if split in n), ())
        root = Path(config.root or "")
        if not any((root / folder).exists() for folder in (split, *names)):
            raise InputError(
                f"dataset {config.name!r} has no folder {split!r} in root={config.root!r}"
                f" (data.{option}); --data folder:PATH holds images out for validation"
            )


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
        """The path of the file, or the number of the image if it has none."""
        samples = getattr(self.dataset, "samples", None)
        return str(samples[index][0]) if samples else f"image {index} of {self.title}"

    def read(self, index: int) -> tuple[Encoded, int]:
        """Reads the image and its label."""
        try:
            return self.dataset[index]
        except UnreadableFile:
            raise
        except Exception as error:  # Pillow raises nearly every kind for damaged files
            raise UnreadableImage(self.name(index), str(error) or type(error).__name__) from error

    def listing(self) -> list[np.ndarray]:
        """The names of the files and the labels, as far as the dataset lists them."""
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
        """Gives timm's reader its place: it was opened before the processes met."""
        reader = self.dataset.reader
        reader.dist_rank, reader.dist_num_replicas = self.place

    def __iter__(self) -> Iterator[tuple[Any, int] | UnreadableImage]:
        for number, (image, label) in enumerate(self.dataset):
            if not 0 <= label < len(self.classes):
                raise InputError(wrong_label(self._name(number), label, len(self.classes)))
            try:
                decoded = self._decoded(*self._encoded(image, number))
            except UnreadableImage as error:
                yield error
            else:
                yield self.transform(decoded), label

    def _name(self, number: int) -> str:
        return f"image {number} of a worker's part of {self.title}"

    def _encoded(self, image: Any, number: int) -> tuple[Encoded, str]:
        """An image, still encoded unless TensorFlow has decoded it, and its name."""
        name = self._name(number)
        if isinstance(image, Image.Image):
            return image, name
        content, path = image["bytes"], image["path"]
        try:
            return read_image(path) if content is None else content, path or name
        except UnreadableFile as error:
            raise UnreadableImage(path, error.reason) from error


def _nothing(epoch: int, part: Part) -> tuple[()]:
    """Takes the place of ``ImageStream.read``, which is not used."""
    return ()


def _leave_encoded(reader: Any) -> None:
    """Has a Hugging Face stream return bytes: an error in its own decoder would end it."""
    import datasets

    reader.builder.info.features[reader.input_key] = datasets.Image(decode=False)


def _classes(config: DataConfig, dataset: Any) -> list[str]:
    names = getattr(dataset, "wnids", None) or getattr(dataset, "classes", None)
    if names is None:
        indices = getattr(getattr(dataset, "reader", None), "class_to_idx", None) or {}
        names = sorted(indices, key=indices.__getitem__)
    if not names and config.num_classes is None:
        raise InputError(
            f"the classes of dataset {config.name!r} are unknown; give data.num_classes"
        )
    classes = [str(name) for name in names] or numbered(config.num_classes or 0)
    check_num_classes(config.num_classes, len(classes), repr(config.name))
    return classes
