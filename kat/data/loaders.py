"""From a data set to batches: transforms, order, collation."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Iterator, Sequence
from functools import partial
from types import FrameType
from typing import Any, NamedTuple, Protocol

import torch
from timm.data import create_transform
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    get_worker_info,
)
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter
from torchvision.transforms import Compose

from kat.data.config import AugmentConfig, DataConfig
from kat.data.dataset import ImageSet, ImageStream, Stack, Transform, process_of
from kat.data.decoding import UnreadableImage, in_channels
from kat.data.seeds import ITEM, ORDER, derived_seed, host_generators_kept, seed_host
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
        images: (B, C, H, W), bytes as :class:`kat.data.DevicePreparation` takes them, or prepared;
            of a dense set what its ``stack`` makes of them, as are the labels.
        labels: (B,), class indices.
        unreadable: name and reason of each image that could not be read; what to do about them is
            the caller's choice (``DataConfig.bad_images``).
        seeds: of what is random in each image, for what is left to be done to them.
    """

    images: Any
    labels: Any
    unreadable: list[tuple[str, str]]
    seeds: list[int] = []  # noqa: RUF012 (a NamedTuple's default)


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


def eval_transform(spec: ImageSpec, *, normalize: bool = True) -> Transform:
    """timm's evaluation transform: resize, central crop, and normalise, unless the device is to.

    Before it images are converted to grey or RGB.
    """
    return _converted(
        spec,
        create_transform(
            spec.input_size,
            is_training=False,
            interpolation=spec.interpolation,
            mean=spec.mean,
            std=spec.std,
            crop_pct=spec.crop_pct,
            normalize=normalize,
        ),
    )


def _converted(spec: ImageSpec, transform: Any) -> Transform:
    """A transform after the conversion of the image to grey or RGB, as the model takes it."""
    return Compose([partial(in_channels, channels=spec.input_size[0]), transform])


def train_transform(spec: ImageSpec, augment: AugmentConfig) -> Transform:
    """timm's training transform: random resized crop, flip, RandAugment. It gives bytes.

    Before it images are converted to grey or RGB. Normalisation and random erasing are
    :class:`kat.data.DevicePreparation`'s.

    Raises:
        InputError: timm does not know the policy of ``auto_augment``.
    """
    jitter: Any = augment.color_jitter or None  # of 0 it takes as long as of any other strength
    try:
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
    except (AssertionError, LookupError, ValueError) as error:
        raise InputError(
            f"augment.auto_augment={augment.auto_augment!r} is not a policy of timm's, such as"
            f" rand-m9-mstd0.5: {error}"
        ) from None
    return _converted(spec, transform)


class Order:
    """The batches of a split: lists of keys, a function of (seed, epoch, rank).

    Every process takes each world-th index. For training the order is a permutation, cut so that
    all processes have equally many whole batches; the batches of all processes together are then
    those that one process with their joint batch size would have. For evaluation it is the natural
    order and nothing is added or left out, so that each image counts once.

    Args:
        length: of the data set.
        batch_size: of this process.
        seed: of the permutations; None for evaluation.
    """

    def __init__(self, length: int, batch_size: int, seed: int | None) -> None:
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0
        self.start = 0

    def begin(self, epoch: int, start: int) -> int:
        """Chooses epoch and first batch of the next iteration. None need be thrown away."""
        self.epoch, self.start = epoch, start
        return 0

    def __len__(self) -> int:
        images = len(range(self.length)[self._share()])
        whole, rest = divmod(images, self.batch_size)
        return whole + (rest > 0 and self.seed is None)

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, indices = self.epoch, self._indices()
        for batch in range(self.start, len(self)):
            chosen = indices[batch * self.batch_size : (batch + 1) * self.batch_size]
            yield [(epoch, index) for index in chosen.tolist()]

    def _indices(self) -> Tensor:
        if self.seed is None:
            return torch.arange(self.length)[self._share()]
        generator = torch.Generator().manual_seed(derived_seed(ORDER, self.seed, self.epoch))
        return torch.randperm(self.length, generator=generator)[self._share()]

    def _share(self) -> slice:
        rank, world = process_of()
        end = self.length if self.seed is None else self.length - self.length % world
        return slice(rank, end, world)


class _Items(Dataset):
    """Items by (epoch, index), with the names of the images that could not be read.

    In training what is random in an item is a function of (seed, epoch, index), and the next
    readable image takes the place of one that is not, so that batches stay whole. In evaluation
    such an image is left out, so that each image counts once. Bad input is given in its place, as
    what a worker raises would reach the user with its traceback.
    """

    def __init__(self, data: ImageSet, seed: int | None) -> None:
        self.data = data
        self.seed = seed

    def __len__(self) -> int:
        return len(self.data)

    def __getitems__(self, keys: list[Key]) -> list[_Item | InputError]:
        with host_generators_kept():
            return [self._item(epoch, index) for epoch, index in keys]

    def _item(self, epoch: int, index: int) -> _Item | InputError:
        seed = 0 if self.seed is None else derived_seed(ITEM, self.seed, epoch, index)
        if self.seed is not None:
            seed_host(seed)
        unreadable: list[tuple[str, str]] = []
        for offset in range(1 if self.seed is None else _TRIES):
            try:
                image, label = self.data[(index + offset) % len(self.data)]
            except UnreadableImage as error:
                unreadable.append((error.name, error.reason))
            except InputError as error:
                return error
            else:
                return (image, label, seed), unreadable
        return None, unreadable


class _StreamItems(IterableDataset):
    """The items of a stream, what is random in them a function of (seed, epoch, rank, place)."""

    def __init__(self, data: ImageStream, seed: int | None) -> None:
        self.data = data
        self.seed = seed
        self.epoch = 0
        self.rank = 0

    def begin(self, epoch: int, start: int) -> int:
        """Chooses the epoch of the next iteration. All batches before the first are thrown away."""
        self.epoch, (self.rank, _) = epoch, process_of()
        self.data.set_epoch(epoch)
        return start

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator[_Item | InputError]:
        worker = get_worker_info()
        place = self.epoch, self.rank, 0 if worker is None else worker.id
        items = iter(self.data)
        for number in itertools.count():
            seed = 0 if self.seed is None else derived_seed(ITEM, self.seed, *place, number)
            with host_generators_kept():
                if self.seed is not None:
                    seed_host(seed)
                item = _next(items)
            if item is None:
                return
            if isinstance(item, InputError):
                yield from itertools.repeat(item)  # whole batches, as a partial one is dropped
            elif isinstance(item, UnreadableImage):
                yield None, [(item.name, item.reason)]
            else:
                yield (*item, seed), []


def _next(items: Iterator[_StreamItem]) -> _StreamItem | InputError | None:
    """The next item of a stream, or the bad input that ends it; None at its end."""
    try:
        return next(items, None)
    except InputError as error:
        return error


Key = tuple[int, int]
"""(epoch, index)."""
_StreamItem = tuple[Any, int] | UnreadableImage
_Item = tuple[tuple[Any, Any, int] | None, list[tuple[str, str]]]
"""((image, label, seed), names and reasons of the images that could not be read)."""
_TRIES = 50


def collate(items: Sequence[_Item], stack: Stack) -> Batch:
    """Stacks what could be read and names what could not; a batch may so be empty."""
    readable = [item for item, _ in items if item is not None]
    unreadable = [name for _, names in items for name in names]
    images, labels = stack([item[0] for item in readable], [item[1] for item in readable])
    return Batch(images, labels, unreadable, [item[2] for item in readable])


def _collated(items: Sequence[_Item | InputError], stack: Stack) -> Batch | InputError:
    """The batch of these items; of which one is bad input, that."""
    refused = next((item for item in items if isinstance(item, InputError)), None)
    return refused or collate([i for i in items if not isinstance(i, InputError)], stack)


class Loader:
    """The batches of a split, epoch after epoch, from any batch of any epoch on.

    Each iteration gives one epoch and moves on to the next. :meth:`start_at` chooses where the
    next one begins; it takes effect when its first batch is asked for. What is read before that
    batch is nothing, or of streams all, which is then thrown away. Bad input, such as a mask with a
    value that is no class, is raised from the iteration as InputError.

    Args:
        loader: gives the batches of ``order``.
        order: of a data set with random access; or the stream's items.
        batch_size: images in a batch of this process.
    """

    def __init__(
        self,
        loader: DataLoader[Batch | InputError],
        order: Order | _StreamItems,
        batch_size: int,
    ) -> None:
        self.loader = loader
        self.order = order
        self.batch_size = batch_size
        self.epoch = 0
        self.start = 0

    def start_at(self, epoch: int, batch: int) -> None:
        """The next iteration begins at this batch of this epoch."""
        self.epoch, self.start = epoch, batch

    def close(self) -> None:
        """Ends the workers, which waiting for the garbage collector would take many seconds."""
        iterator, self.loader._iterator = self.loader._iterator, None
        if isinstance(iterator, _MultiProcessingDataLoaderIter):
            iterator._shutdown_workers()

    def __len__(self) -> int:
        """The batches of a whole epoch, in this process."""
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        epoch, start = self.epoch, self.start
        self.start_at(epoch + 1, 0)
        thrown_away = self.order.begin(epoch, start)
        for batch in itertools.islice(self.loader, thrown_away, None):
            if isinstance(batch, InputError):
                raise batch
            yield batch


def _leave_requests_to_the_trainer(worker: int) -> None:
    """A worker survives what a scheduler sends to all processes of a run that is to stop.

    A second SIGTERM, as its own parent may send, ends it.
    """

    def once(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)

    signal.signal(signal.SIGTERM, once)
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def make_loader(
    data: ImageSet | ImageStream, config: DataConfig, *, training: bool, seed: int = 0
) -> Loader:
    """Batches of a split: shuffled and without the last partial one for training.

    The order of the data is a function of (seed, epoch, rank), the augmentation of an image one of
    (seed, epoch, index); of streams both depend on the number of workers too.

    Raises:
        InputError: the training split is smaller than one batch.
    """
    seeded = seed if training else None
    options: dict[str, Any] = {
        "num_workers": config.num_workers,
        "pin_memory": torch.cuda.is_available(),
        "collate_fn": partial(_collated, stack=data.stack),
        "worker_init_fn": _leave_requests_to_the_trainer,
    }
    if isinstance(data, ImageStream):
        stream = _StreamItems(data, seeded)
        options |= {"batch_size": config.batch_size, "drop_last": training}
        return Loader(DataLoader(stream, **options), stream, config.batch_size)
    if training and len(data) < config.batch_size:
        raise InputError(
            f"the training split has {len(data)} images, fewer than one batch of"
            f" data.batch_size={config.batch_size}"
        )
    order = Order(len(data), config.batch_size, seeded)
    # Those of an evaluation end with it, so that their memory is not held while training goes on.
    options["persistent_workers"] = training and config.num_workers > 0
    loader = DataLoader(_Items(data, seeded), batch_sampler=order, **options)
    return Loader(loader, order, config.batch_size)
