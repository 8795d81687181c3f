"""Batches of a dataset, which can be resumed exactly at any batch of any epoch."""

from __future__ import annotations

import itertools
import traceback
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import partial
from multiprocessing.context import BaseContext
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

from kat.data.config import DataConfig
from kat.data.dataset import Collate, ImageDataset
from kat.data.decoding import UnreadableImage
from kat.data.loading.sampler import Key, ResumableSampler
from kat.data.loading.workers import LoaderFailed, prepare_worker, start_workers, worker_has_ended
from kat.data.seeds import ITEM, derived_seed, fork_host_rng, seed_host
from kat.errors import InputError, first_line

_REPLACEMENTS = 50
"""Number of images that are tried, one after the other, in the place of an unreadable one."""


class Batch(NamedTuple):
    """A batch of images.

    Args:
        images: (B, C, H, W), uint8 for :class:`kat.data.DeviceTransform`, or normalized already;
            for a dense dataset, whatever its ``collate`` returns.
        labels: (B,) class indices; for a dense dataset, whatever its ``collate`` returns.
        unreadable: name and reason for each image that could not be read.
        seeds: seed of each image, for random transforms on the device.

    Examples:
        >>> from kat.data import DataConfig, eval_transform, make_loader, open_split, preprocessing
        >>> config = DataConfig("digits", batch_size=32)
        >>> data = open_split(config, "val")
        >>> data.transform = eval_transform(preprocessing(config, data))
        >>> batch = next(iter(make_loader(data, config, training=False)))
        >>> batch.images.shape, batch.labels.shape, batch.unreadable
        (torch.Size([32, 1, 8, 8]), torch.Size([32]), [])
    """

    images: Any
    labels: Any
    unreadable: list[tuple[str, str]]
    seeds: list[int] = []  # noqa: RUF012 (a NamedTuple's default)


Item = tuple[tuple[Any, Any, int] | None, list[tuple[str, str]]]
"""((image, label, seed), or None if it is unreadable; names and reasons of unreadable images)."""


def make_batch(items: Sequence[Item], collate: Collate) -> Batch:
    """Collate the readable items. The batch is empty if there are none."""
    readable = [item for item, _ in items if item is not None]
    unreadable = list(itertools.chain.from_iterable(names for _, names in items))
    images, labels = collate([item[0] for item in readable], [item[1] for item in readable])
    return Batch(images, labels, unreadable, [item[2] for item in readable])


def _collate(
    items: Sequence[Item | InputError], collate: Collate, *, strict: bool
) -> Batch | InputError:
    """Return the batch, or the first error among the items; if strict, also an unreadable image."""
    for item in items:
        if isinstance(item, InputError):
            return item
        for name, reason in item[1] if strict else ():
            return InputError(f"{name} cannot be read as an image: {reason}")
    return make_batch([i for i in items if not isinstance(i, InputError)], collate)


class _IndexedItems(Dataset):
    """The items of a dataset by key, with augmentation as a function of (seed, epoch, index).

    In training, the next readable image replaces an unreadable one, so that batches stay full. In
    evaluation an unreadable image is left out, so that each image counts once. An
    :class:`InputError` is returned, not raised: raised in a worker, it would reach the user with
    the worker's traceback.
    """

    def __init__(self, data: ImageDataset, seed: int | None) -> None:
        self.data = data
        self.seed = seed

    def __len__(self) -> int:
        return len(self.data)

    def __getitems__(self, keys: list[Key]) -> list[Item | InputError]:
        with fork_host_rng():
            return [self._item(epoch, index) for epoch, index in keys]

    def _item(self, epoch: int, index: int) -> Item | InputError:
        seed = 0
        if self.seed is not None:
            seed = derived_seed(ITEM, self.seed, epoch, index)
            seed_host(seed)
        unreadable: list[tuple[str, str]] = []
        for offset in range(1 if self.seed is None else _REPLACEMENTS):
            try:
                image, label = self.data[(index + offset) % len(self.data)]
            except UnreadableImage as error:
                unreadable.append((error.name, error.reason))
            except InputError as error:
                return error
            else:
                return (image, label, seed), unreadable
        return None, unreadable


class Loader:
    """The batches of a split, epoch after epoch, from any batch of any epoch on.

    Each iteration yields the rest of the current epoch and moves on to the next. Nothing before
    its first batch is read.

    Args:
        make: returns a DataLoader of the batches, which may also be errors in the input.
        order: chooses the epoch and the first batch of the DataLoader.
        batch_size: number of images in a batch of this process.

    Raises:
        InputError: from the iteration, if the data is bad, e.g. if a mask has a value that is
            not a class, or if an image cannot be read and ``DataConfig.bad_images`` is ``fail``.

    Examples:
        >>> from kat.data import DataConfig, eval_transform, make_loader, open_split, preprocessing
        >>> config = DataConfig("digits", batch_size=128)
        >>> data = open_split(config, "train")
        >>> data.transform = eval_transform(preprocessing(config, data))
        >>> loader = make_loader(data, config, training=True, seed=0)
        >>> sum(1 for batch in loader)  # the next iteration is the next epoch, in another order
        11
    """

    def __init__(
        self,
        make: Callable[[], DataLoader[Batch | InputError]],
        order: ResumableSampler,
        batch_size: int,
    ) -> None:
        self.make = make
        self.order = order
        self.batch_size = batch_size
        self.start_at(0, 0)
        self._loaders = [make()]
        # Weak references: an iteration that nobody holds must not keep its workers.
        self._iterations: weakref.WeakSet[Generator[Batch, None, None]] = weakref.WeakSet()
        # At exit, Python would wait for workers that ignore its request to stop.
        weakref.finalize(self, _stop, self._iterations, self._loaders)

    def start_at(self, epoch: int, batch: int) -> None:
        """Make the next iteration start at this batch of this epoch.

        It takes effect when that iteration yields its first batch.
        """
        self.epoch, self.first_batch = epoch, batch

    def close(self) -> None:
        """End all iterations and stop the workers; another iteration starts new ones."""
        _stop(self._iterations, self._loaders)
        self._loaders.append(self.make())

    def __len__(self) -> int:
        """Return the number of batches in a whole epoch of this process."""
        return len(self._loaders[0])

    def __iter__(self) -> Iterator[Batch]:
        iteration = self._batches()
        self._iterations.add(iteration)
        return iteration

    def _batches(self) -> Generator[Batch, None, None]:
        epoch, first_batch = self.epoch, self.first_batch
        self.start_at(epoch + 1, 0)
        self.order.start_at(epoch, first_batch)
        try:
            for batch in start_workers(self._loaders[0]):
                if isinstance(batch, InputError):
                    raise batch
                yield batch
        except BaseException as error:
            # The frames of an error in the DataLoader would keep it, and its workers, alive.
            traceback.clear_frames(error.__traceback__)
            if isinstance(error, Exception) and worker_has_ended(error):
                raise LoaderFailed(first_line(error)) from None
            raise


def _stop(
    iterations: Iterable[Generator[Batch, None, None]], loaders: list[DataLoader[Any]]
) -> None:
    """End iterations and delete DataLoaders, which stop their workers when they are deleted."""
    for iteration in list(iterations):
        iteration.close()
    loaders.clear()


def make_loader(
    data: ImageDataset,
    config: DataConfig,
    *,
    training: bool,
    seed: int = 0,
    workers: BaseContext | None = None,
) -> Loader:
    """Make the loader of a split.

    For training, images are shuffled and the last partial batch is dropped. The order of the data
    is a function of (seed, epoch, rank), and the augmentation of an image is a function of
    (seed, epoch, index).

    Args:
        data: the images and labels of a split.
        config: batch size, number of workers.
        training: whether to shuffle and augment.
        seed: of the order and the augmentation.
        workers: starts the workers; :func:`kat.data.loading.workers.worker_server` beside threads
            of collectives, None: as Python does by default.

    Examples:
        >>> from kat.data import DataConfig, eval_transform, make_loader, open_split, preprocessing
        >>> config = DataConfig("folder:photos", image_size=32, batch_size=4)
        >>> data = open_split(config, "train")
        >>> data.transform = eval_transform(preprocessing(config, data))
        >>> images, labels, *_ = next(iter(make_loader(data, config, training=True)))
        >>> images.shape, labels.shape
        (torch.Size([4, 3, 32, 32]), torch.Size([4]))
    """
    seed_or_none = seed if training else None
    options: dict[str, Any] = {
        "num_workers": config.num_workers,
        "pin_memory": torch.cuda.is_available(),
        "collate_fn": partial(_collate, collate=data.collate, strict=config.bad_images == "fail"),
        "worker_init_fn": prepare_worker,
        "multiprocessing_context": workers if config.num_workers else None,
    }
    sampler = ResumableSampler(len(data), config.batch_size, seed_or_none)
    options["batch_sampler"] = sampler
    # The workers of an evaluation stop at its end: they would hold memory during training.
    options["persistent_workers"] = training and config.num_workers > 0
    items = _IndexedItems(data, seed_or_none)
    return Loader(partial(DataLoader, items, **options), sampler, config.batch_size)
