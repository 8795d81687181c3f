"""The order of a dataset: a function of (seed, epoch, rank), from any batch on."""

from __future__ import annotations

import pytest
import torch.distributed as dist

from kat.data.sampler import ResumableSampler


def _epoch(sampler, epoch, batch=0):
    assert sampler.start_at(epoch, batch) == 0
    return list(sampler)


@pytest.mark.parametrize("batch", [0, 1, 3, 4])
def test_an_epoch_can_be_resumed_at_any_batch(batch):
    whole = _epoch(ResumableSampler(17, 4, seed=3), epoch=2)
    assert len(whole) == 4
    keys = [key for each in whole for key in each]
    assert {epoch for epoch, _ in keys} == {2}
    assert len(set(keys)) == 16
    assert _epoch(ResumableSampler(17, 4, seed=3), 2, batch) == whole[batch:]
    assert len(ResumableSampler(17, 4, seed=3)) == 4


def test_the_order_depends_on_seed_and_epoch():
    sampler, other = ResumableSampler(50, 5, seed=0), ResumableSampler(50, 5, seed=1)
    orders = [
        [index for batch in _epoch(each, epoch) for _, index in batch]
        for each, epoch in ((sampler, 0), (sampler, 1), (other, 0))
    ]
    assert orders[0] != orders[1]
    assert orders[0] != orders[2]
    assert [sorted(order) for order in orders] == [list(range(50))] * 3


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
