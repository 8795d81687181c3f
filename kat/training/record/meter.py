"""The work of a training loop by the wall clock: images, batches, time, waiting for data."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

Item = TypeVar("Item")


class Work(NamedTuple):
    """Work of a training loop in some time.

    Args:
        images: images of all processes.
        batches: batches of this process.
        seconds: wall time, without validation.
        waited: the part of ``seconds`` in which this process waited for its loader.
    """

    images: int = 0
    batches: int = 0
    seconds: float = 0.0
    waited: float = 0.0

    def since(self, earlier: Work) -> Work:
        """Return the work after ``earlier``."""
        return Work._make(now - then for now, then in zip(self, earlier, strict=True))

    @property
    def images_per_second(self) -> float:
        """images / seconds."""
        return _ratio(self.images, self.seconds)

    @property
    def seconds_per_batch(self) -> float:
        """seconds / batches."""
        return _ratio(self.seconds, self.batches)

    @property
    def wait_share(self) -> float:
        """waited / seconds."""
        return _ratio(self.waited, self.seconds)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0


class Meter:
    """Sums the work of a training loop by the wall clock; it never waits for the device.

    Args:
        clock: gives seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.work = Work()
        self._since: float | None = None

    def timed(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items, while the clock runs; the time until each is there is waiting."""
        asked = self._since = self.clock()
        try:
            for item in items:
                self.work = self.work._replace(waited=self.work.waited + self.clock() - asked)
                yield item
                asked = self.clock()
        finally:
            self.read()
            self._since = None

    def count(self, images: int) -> None:
        """Count a batch."""
        work = self.work
        self.work = work._replace(images=work.images + images, batches=work.batches + 1)

    def read(self) -> Work:
        """Return the work so far."""
        if self._since is not None:
            now = self.clock()
            self.work = self.work._replace(seconds=self.work.seconds + now - self._since)
            self._since = now
        return self.work
