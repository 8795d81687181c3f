"""Transforms of images to inputs of a model, in the worker that loads them and on the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from PIL import Image
from timm.data import create_transform
from timm.data.auto_augment import NAME_TO_OP, posterize
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torchvision.transforms import Compose

from kat.data.config import AugmentConfig, DataConfig
from kat.data.dataset import ImageDataset, Transform
from kat.data.decoding import decode, in_channels
from kat.data.seeds import ERASING, derived_seed, fork_host_rng, seed_all
from kat.errors import InputError


class Preprocessing(NamedTuple):
    """The preprocessing of images to the input tensors of a model.

    Args:
        input_size: (channels, height, width).
        mean, std: per channel, after scaling pixels to [0, 1].
        interpolation: how images are resized.
        crop_pct: the share of the resized image that the central crop keeps.

    Examples:
        >>> from kat.data import DataConfig, open_split, preprocessing
        >>> config = DataConfig("digits")
        >>> preprocessing(config, open_split(config, "val")).input_size
        (1, 8, 8)
    """

    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_pct: float


def preprocessing(config: DataConfig, data: ImageDataset) -> Preprocessing:
    """Return the preprocessing in the settings, completed by the dataset's own.

    Raises:
        InputError: images differ in size and no image size is given.

    Examples:
        >>> from kat.data import DataConfig, open_split, preprocessing
        >>> config = DataConfig("folder:photos", image_size=224, crop_pct=0.875)
        >>> preprocessing(config, open_split(config, "val")).input_size
        (3, 224, 224)
    """
    if config.image_size is not None:
        height = width = config.image_size
    elif data.image_size is not None:
        height, width = data.image_size
    else:
        raise InputError(
            f"data.image_size is needed, a number or auto: the images of {config.name!r} may differ"
            " in size"
        )
    channels = config.channels or data.channels
    mean = config.mean or _per_channel(data.mean, channels)
    std = config.std or _per_channel(data.std, channels)
    size = (channels, height, width)
    interpolation = config.interpolation if data.task == ImageDataset.task else "bilinear"
    return Preprocessing(size, tuple(mean), tuple(std), interpolation, config.crop_pct)


def _per_channel(values: Sequence[float], channels: int) -> Sequence[float]:
    """Return the values, or their mean for each channel of images that are converted."""
    return values if len(values) == channels else (sum(values) / len(values),) * channels


def eval_transform(spec: Any, *, normalize: bool = True) -> Transform:
    """Make timm's evaluation transform: resize, central crop, normalization.

    Images are first converted to grayscale or RGB.

    Args:
        spec: a :class:`Preprocessing`, or the record of a model, which has the same attributes.
        normalize: False leaves normalization to :class:`DeviceTransform`.

    Examples:
        >>> from kat.data import DataConfig, decode, eval_transform, open_split, preprocessing
        >>> config = DataConfig("folder:photos", image_size=32)
        >>> transform = eval_transform(preprocessing(config, open_split(config, "val")))
        >>> transform(decode("photos/val/cat/0.png")).shape
        torch.Size([3, 32, 32])
    """
    transform = create_transform(
        spec.input_size,
        is_training=False,
        interpolation=spec.interpolation,
        mean=spec.mean,
        std=spec.std,
        crop_pct=spec.crop_pct,
        normalize=normalize,
    )
    return _after_conversion(spec, transform)


def read_images(paths: Sequence[str], spec: Any, *, normalize: bool = True) -> Tensor:
    """Read images as a model sees them in evaluation, (N, C, H, W); see :func:`eval_transform`."""
    transform = eval_transform(spec, normalize=normalize)
    return torch.stack([transform(decode(path)) for path in paths])


def train_transform(spec: Any, augment: AugmentConfig) -> Transform:
    """Make timm's training transform: random resized crop, flip, RandAugment; it returns uint8.

    Images are first converted to grayscale or RGB. :class:`DeviceTransform` does normalization and
    random erasing.

    Raises:
        InputError: timm does not know the policy ``auto_augment``.

    Examples:
        >>> from kat.data import AugmentConfig, DataConfig, open_split
        >>> from kat.data import preprocessing, train_transform
        >>> config = DataConfig("folder:photos", image_size=32)
        >>> data = open_split(config, "train")
        >>> spec = preprocessing(config, data)
        >>> data.transform = train_transform(spec, AugmentConfig(scale=(0.5, 1.0), hflip=0.5))
        >>> image, label = data[0]
        >>> image.shape, image.dtype
        (torch.Size([3, 32, 32]), torch.uint8)
    """
    jitter: Any = augment.color_jitter or None  # a jitter of 0 takes as long as any other
    try:
        with _zero_bits_are_black():
            transform = create_transform(
                spec.input_size,
                is_training=True,
                scale=(augment.scale[0], augment.scale[1]),
                ratio=(augment.ratio[0], augment.ratio[1]),
                hflip=augment.hflip,
                color_jitter=jitter,
                auto_augment=augment.auto_augment,
                interpolation=augment.interpolation,
                mean=spec.mean,
                std=spec.std,
                normalize=False,
            )
    except (AssertionError, LookupError, ValueError):
        raise InputError(
            f"augment.auto_augment={augment.auto_augment!r} is not a policy of timm's, such as"
            " rand-m9-mstd0.5, augmix-m3-w3 or original"
        ) from None
    return _after_conversion(spec, transform)


@contextmanager
def _zero_bits_are_black() -> Iterator[None]:
    """Within the context timm's policies get a posterization that takes 0 bits per channel.

    Some policies ask for that. Older versions of Pillow gave black, and newer ones refuse it.
    """
    names = ("Posterize", "PosterizeIncreasing", "PosterizeOriginal")
    before = {name: NAME_TO_OP[name] for name in names}
    NAME_TO_OP.update(dict.fromkeys(names, _posterize))
    try:
        yield
    finally:
        NAME_TO_OP.update(before)


def _posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    return posterize(image, bits) if bits > 0 else image.point(lambda value: 0)


def _after_conversion(spec: Any, transform: Any) -> Transform:
    """Return the transform, after conversion of the image to grayscale or RGB."""
    return Compose([partial(in_channels, channels=spec.input_size[0]), transform])


class DeviceTransform:
    """(pixels / 255 - mean) / std and random erasing, on the device that trains.

    Workers send bytes, a quarter of the size of normalized numbers.

    Args:
        mean, std: per channel.
        random_erasing: probability that a rectangle of an image is replaced by noise (Zhong et al.
            2020).

    Examples:
        >>> import torch
        >>> from kat.data import DeviceTransform
        >>> normalize = DeviceTransform(mean=(0.5,), std=(0.5,))
        >>> normalize(torch.full((1, 1, 1, 2), 255, dtype=torch.uint8))
        tensor([[[[1., 1.]]]])
    """

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], random_erasing: float = 0.0
    ) -> None:
        self.mean, self.std = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))
        self.random_erasing = random_erasing

    def __call__(self, images: Tensor, seeds: Sequence[int] = ()) -> Tensor:
        """Transform a batch.

        Args:
            images: (B, C, H, W) uint8. Images of another dtype are returned as they are.
            seeds: a seed for the rectangle of each image; without seeds nothing is erased.

        Returns:
            (B, C, H, W) float32.
        """
        if images.dtype != torch.uint8:
            return images
        self.mean, self.std = self.mean.to(images.device), self.std.to(images.device)
        normalized = images.float().div_(255).sub_(self.mean).div_(self.std)
        if self.random_erasing > 0 and seeds:
            self._erase(normalized, seeds)
        return normalized

    def _erase(self, images: Tensor, seeds: Sequence[int]) -> None:
        erase = RandomErasing(self.random_erasing, mode="pixel", device=str(images.device))
        with fork_host_rng():
            for image, seed in zip(images, seeds, strict=True):
                seed_all(derived_seed(ERASING, seed))
                erase(image)
