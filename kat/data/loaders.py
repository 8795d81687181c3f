"""From a data set to batches: transforms, order, collation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from timm.data import create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, default_collate

from kat.data.config import AugmentConfig, DataConfig
from kat.data.sources import ImageSet, ImageStream, Transform, UnreadableImage
from kat.errors import InputError


class ImageSpec(Protocol):
    """What the transforms need to know; see :class:`Preprocessing`, which has it."""

    @property
    def input_size(self) -> tuple[int, int, int]: ...
    @property
    def mean(self) -> tuple[float, ...]: ...
    @property
    def std(self) -> tuple[float, ...]: ...
    @property
    def interpolation(self) -> str: ...
    @property
    def crop_pct(self) -> float: ...


class Preprocessing(NamedTuple):
    """How images are made into the tensors that a model was trained on.

    Args:
        input_size: (channels, height, width).
        mean, std: of each channel, after scaling pixels to [0, 1].
        interpolation: how images are resized.
        crop_pct: the share of the resized image that the central crop keeps.
    """

    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_pct: float


class Batch(NamedTuple):
    """A batch of images.

    Args:
        images: (B, C, H, W), normalised.
        labels: (B,), class indices.
        unreadable: the paths of images that could not be read; they are not in the batch. What
            to do about them is the caller's choice (``DataConfig.bad_images``).
    """

    images: Tensor
    labels: Tensor
    unreadable: list[str]


def preprocessing(config: DataConfig, data: ImageSet | ImageStream) -> Preprocessing:
    """The preprocessing that the settings ask for, with the data set's own where they are silent.

    Raises:
        InputError: no image size is given where images differ in size, or mean and std do not
            have one number a channel.
    """
    if config.image_size is not None:
        height = width = config.image_size
    elif data.image_size is not None:
        height, width = data.image_size
    else:
        raise InputError(f"data.image_size is needed: the images of {config.name!r} differ in size")
    mean, std = config.mean or data.mean, config.std or data.std
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != data.channels:
            raise InputError(
                f"data.{name} has {len(values)} numbers, but the images have {data.channels}"
                " channels"
            )
    size = (data.channels, height, width)
    return Preprocessing(size, tuple(mean), tuple(std), config.interpolation, config.crop_pct)


def eval_transform(spec: ImageSpec) -> Transform:
    """timm's evaluation transform: resize, central crop, normalise."""
    return create_transform(
        spec.input_size,
        is_training=False,
        interpolation=spec.interpolation,
        mean=spec.mean,
        std=spec.std,
        crop_pct=spec.crop_pct,
    )


def train_transform(spec: ImageSpec, augment: AugmentConfig) -> Transform:
    """timm's training transform: random resized crop, flip, RandAugment, random erasing."""
    return create_transform(
        spec.input_size,
        is_training=True,
        scale=(augment.scale[0], augment.scale[1]),
        ratio=(augment.ratio[0], augment.ratio[1]),
        hflip=augment.hflip,
        color_jitter=augment.color_jitter,
        auto_augment=augment.auto_augment,
        interpolation=augment.interpolation,
        mean=spec.mean,
        std=spec.std,
        re_prob=augment.random_erasing,
        re_mode="pixel",
    )


class SeededOrder(Sampler[int]):
    """A permutation of the data set that is a function of (seed, epoch) alone."""

    def __init__(self, length: int, seed: int) -> None:
        self.length = length
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the permutation; the training loop calls it before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        return iter(torch.randperm(self.length, generator=generator).tolist())


class _Tolerant(Dataset):
    """Yields the path of an unreadable image in place of the image."""

    def __init__(self, data: ImageSet) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Any, int] | str:
        try:
            return self.data[index]
        except UnreadableImage as error:
            return str(error)


def collate(items: Sequence[tuple[Tensor, int] | str]) -> Batch:
    """Stacks what could be read and lists what could not; a batch may so be empty."""
    readable = [item for item in items if not isinstance(item, str)]
    unreadable = [item for item in items if isinstance(item, str)]
    if not readable:
        return Batch(torch.empty(0), torch.empty(0, dtype=torch.long), unreadable)
    images, labels = default_collate(readable)
    return Batch(images, labels, unreadable)


def make_loader(
    data: ImageSet | ImageStream, config: DataConfig, *, training: bool, seed: int = 0
) -> DataLoader[Batch]:
    """Batches of a split: shuffled and without the last partial one for training.

    Raises:
        InputError: the training split is smaller than one batch.
    """
    options: dict[str, Any] = {
        "batch_size": config.batch_size,
        "num_workers": config.workers,
        "persistent_workers": config.workers > 0,
        "pin_memory": torch.cuda.is_available(),
        "collate_fn": collate,
        "drop_last": training,
    }
    if isinstance(data, IterableDataset):
        return DataLoader(data, **options)
    if training and len(data) < config.batch_size:
        raise InputError(
            f"the training split has {len(data)} images, fewer than one batch of"
            f" data.batch_size={config.batch_size}"
        )
    order = SeededOrder(len(data), seed) if training else None
    return DataLoader(_Tolerant(data), sampler=order, **options)
