"""From a data set to batches: transforms, order, collation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
import torch.distributed as dist
from PIL import Image
from timm.data import create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, default_collate
from torchvision.transforms import Compose

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
        unreadable: the names of images that could not be read; what to do about them is the
            caller's choice (``DataConfig.bad_images``).
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
    channels = config.channels or data.channels
    mean = config.mean or _as_channels(data.mean, channels)
    std = config.std or _as_channels(data.std, channels)
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != channels:
            raise InputError(
                f"data.{name} has {len(values)} numbers, but the images have {channels} channels"
            )
    size = (channels, height, width)
    return Preprocessing(size, tuple(mean), tuple(std), config.interpolation, config.crop_pct)


def _as_channels(values: Sequence[float], channels: int) -> Sequence[float]:
    """Means or deviations of the channels of images that are converted to grey or to RGB."""
    return values if len(values) == channels else (sum(values) / len(values),) * channels


def eval_transform(spec: ImageSpec) -> Transform:
    """timm's evaluation transform: resize, central crop, normalise; first to grey or RGB."""
    return _converted(
        spec,
        create_transform(
            spec.input_size,
            is_training=False,
            interpolation=spec.interpolation,
            mean=spec.mean,
            std=spec.std,
            crop_pct=spec.crop_pct,
        ),
    )


def _converted(spec: ImageSpec, transform: Any) -> Transform:
    """A transform after the conversion of the image to grey or RGB, as the model takes it."""
    mode = {1: "L", 3: "RGB"}.get(spec.input_size[0])
    return transform if mode is None else Compose([partial(_in_mode, mode), transform])


def _in_mode(mode: str, image: Image.Image) -> Image.Image:
    return image if image.mode == mode else image.convert(mode)


def train_transform(spec: ImageSpec, augment: AugmentConfig) -> Transform:
    """timm's training transform: random resized crop, flip, RandAugment, random erasing; first to
    grey or RGB.

    Raises:
        InputError: timm does not know the policy of ``auto_augment``.
    """
    try:
        transform = create_transform(
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
    except (AssertionError, LookupError, ValueError) as error:
        raise InputError(
            f"augment.auto_augment={augment.auto_augment!r} is not a policy of timm's, such as"
            f" rand-m9-mstd0.5: {error}"
        ) from None
    return _converted(spec, transform)


class ShardedOrder(Sampler[int]):
    """The order of a data set, a function of (seed, epoch), and this process's share of it.

    Every process takes each world-th index. For training the order is a permutation, cut so that
    all processes have equally many; for evaluation it is the natural one and nothing is added or
    left out, so that each image counts once.

    Args:
        length: of the data set.
        seed: of the permutations; None for evaluation.
    """

    def __init__(self, length: int, seed: int | None) -> None:
        self.length = length
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the permutation; the training loop calls it before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(range(self.length)[self._share()])

    def __iter__(self) -> Iterator[int]:
        if self.seed is None:
            return iter(range(self.length)[self._share()])
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        return iter(torch.randperm(self.length, generator=generator).tolist()[self._share()])

    def _share(self) -> slice:
        rank, world = 0, 1
        if dist.is_available() and dist.is_initialized():
            rank, world = dist.get_rank(), dist.get_world_size()
        end = self.length if self.seed is None else self.length - self.length % world
        return slice(rank, end, world)


class _Tolerant(Dataset):
    """Items with the names of the images that could not be read on the way to them.

    In training the next readable image takes the place of one that is not, so that batches stay
    whole; in evaluation it is left out, so that each image counts once.
    """

    def __init__(self, data: ImageSet, replace: bool) -> None:
        self.data = data
        self.tries = _TRIES if replace else 1

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> _Item:
        unreadable: list[str] = []
        for offset in range(self.tries):
            try:
                return self.data[(index + offset) % len(self.data)], unreadable
            except UnreadableImage as error:
                unreadable.append(error.name)
        return None, unreadable


_Item = tuple[tuple[Any, int] | None, list[str]]
_TRIES = 50


def collate(items: Sequence[_Item]) -> Batch:
    """Stacks what could be read and names what could not; a batch may so be empty."""
    readable = [item for item, _ in items if item is not None]
    unreadable = [name for _, names in items for name in names]
    if not readable:
        return Batch(torch.empty(0), torch.empty(0, dtype=torch.long), unreadable)
    images, labels = default_collate(readable)
    return Batch(images, labels, unreadable)


def _collate_stream(items: Sequence[tuple[Any, int]]) -> Batch:
    return collate([(item, []) for item in items])


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
        "drop_last": training,
    }
    if isinstance(data, IterableDataset):
        return DataLoader(data, collate_fn=_collate_stream, **options)
    if training and len(data) < config.batch_size:
        raise InputError(
            f"the training split has {len(data)} images, fewer than one batch of"
            f" data.batch_size={config.batch_size}"
        )
    order = ShardedOrder(len(data), seed if training else None)
    tolerant = _Tolerant(data, replace=training)
    return DataLoader(tolerant, sampler=order, collate_fn=collate, **options)
