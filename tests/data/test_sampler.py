"""The order of a dataset: a function of (seed, epoch, rank), from any batch on."""

from __future__ import annotations

import pytest
import torch.distributed as dist

from kat.data.sampler import ResumableSampler


def _epoch(sampler, epoch, batch=0):
    assert sampler.start_at(epoch, batch) == 0
    return list(sampler)


@pytest.mark.parametrize("seed", [None, 0])
def test_ranks_share_the_images(monkeypatch, seed):
    """In training, all have equally many full batches; in evaluation, each image comes once."""
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 3)
    shares = []
    for rank in range(3):
        monkeypatch.setattr(dist, "get_rank", lambda rank=rank: rank)
        sampler = ResumableSampler(20, 4, seed)
        batches = _epoch(sampler, 0)
        assert len(batches) == len(sampler)
        shares.append([len(batch) for batch in batches])
        shares[-1].append({index for batch in batches for _, index in batch})
    seen = [share.pop() for share in shares]
    assert sum(map(len, seen)) == len(set.union(*seen))
    if seed is None:
        assert set.union(*seen) == set(range(20))
        assert shares == [[4, 3], [4, 3], [4, 2]]
    else:
        assert shares == [[4]] * 3
