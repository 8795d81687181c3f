"""The data of activations: functions against the layers themselves, inputs against torch's own."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from torch import nn

from kat.analysis.inspect.activations import learned_activations, watch_inputs
from kat.nn import GroupRational, LayerHistory
from tests.hooks import forward_pre_hooks


@pytest.fixture
def layer():
    """A layer of four groups, each with its own function; called as part of a model."""
    layer = GroupRational(4, init="gelu", share="none", channel_dim=1)
    with torch.no_grad():
        layer.weight_numerator += 0.1 * torch.arange(4)[:, None]
    return layer


def inputs(*groups, channels=2):
    """Images (B, 2 groups, k, 1) of which group g sees the numbers of the g-th row."""
    return torch.stack([row for row in torch.tensor(groups) for _ in range(channels)])[
        None, ..., None
    ]


def test_functions_are_those_that_the_layer_computes(layer):
    (found,) = learned_activations(nn.Sequential(layer))
    assert (found.name, found.form, found.num_groups) == ("0", "A", 4)
    assert (found.x[0], found.x[-1], len(found.x)) == (-3, 3, 401)
    x = torch.from_numpy(found.x).float()
    y = layer(x[None, None, :].expand(1, 8, -1))[0, ::2]
    np.testing.assert_allclose(found.learned, y.detach().numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.start, nn.GELU()(x).expand(4, -1).numpy(), atol=2e-3)
    assert found.histogram is found.edges is None
    assert found.densities()[2, 200] == pytest.approx(1 / np.sqrt(2 * np.pi))


def test_the_histogram_is_numpys_over_all_batches(layer):
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor([0.1, 1.0, 2.0, 4.0]).repeat_interleave(3)[:, None, None]
    noise = torch.randn(3, 5, 12, 40, 7, generator=generator, dtype=torch.float64)
    images = list(noise * scale - 1)
    (found,) = learned_activations(nn.Sequential(layer.double()), iter(images))
    every = torch.cat(images).view(15, 4, 3, 280).movedim(1, 0).flatten(1).numpy()
    low, high = np.quantile(every, [0.001, 0.999])
    assert found.x[0] == found.edges[0] == pytest.approx(low, abs=1 / 16)
    assert found.x[-1] == found.edges[-1] == pytest.approx(high, abs=1 / 16)
    for group in range(4):
        counts, _ = np.histogram(every[group], found.edges)
        # numpy's last bin holds its right end, which no number meets here
        share = found.histogram[group] * np.diff(found.edges)
        np.testing.assert_allclose(share, counts / every[group].size, atol=1e-12)
    inside = (every >= found.edges[0]) & (every < found.edges[-1])
    assert found.outside == pytest.approx(1 - inside.mean(), abs=1e-9)
    assert 0 < found.outside < 0.003
    middle = found.densities()[:, np.abs(found.x + 1).argmin()]
    assert np.all(np.diff(middle) < 0)  # narrow groups are dense


def test_narrow_and_extreme_inputs(layer):
    narrow = inputs([0.01] * 50, [0.0] * 50, [-0.02] * 50, [0.5] * 50)
    (found,) = learned_activations(nn.Sequential(layer), [narrow])
    assert (found.x[0], found.x[-1], found.outside) == (-3, 3, 0)
    wide = inputs([1e9] * 50, [-1e30] * 50, [0.0] * 50, [63.9] * 50)
    (found,) = learned_activations(nn.Sequential(layer), [wide])
    assert (found.x[0], found.x[-1], found.outside) == (-64, 64, 0.5)
    assert len(found.edges) < 100
    (found,) = learned_activations(nn.Sequential(layer), [wide], width=1.5)
    assert (found.x[0], found.x[-1], found.outside) == (-1.5, 1.5, 0.75)
    np.testing.assert_allclose((found.histogram * np.diff(found.edges)).sum(1), [0, 0, 1, 0])


def test_a_model_is_seen_layer_by_layer():
    torch.manual_seed(0)
    model = timm.create_model("kat_micro_patch2_8", in_chans=1).eval()
    images = torch.randn(4, 1, 8, 8)
    seen = {}
    watch_inputs(model, [images], lambda name, x: seen.setdefault(name, x))
    found = learned_activations(model, [images])
    assert [activation.name for activation in found] == list(seen)
    assert len(found) == 8
    for activation in found:
        x, times = seen[activation.name].numpy(), 4 if "act2" in activation.name else 1
        assert activation.learned.shape == activation.start.shape == (8, 401)
        assert x.shape == (8, 4 * 17 * model.embed_dim * times / 8)
        counts, _ = np.histogram(x[3], activation.edges)
        share = activation.histogram[3] * np.diff(activation.edges)
        np.testing.assert_allclose(share, counts / x[3].size, atol=1e-12)


def test_the_start_is_that_of_the_run_where_it_is_recorded(layer):
    """A run that began from trained weights did not start from the function of the preset."""
    a, b = (torch.stack([p, 2 * p]).detach() for p in layer.parameters())
    history = {"0": LayerHistory(layer.form, torch.tensor([0, 5]), a, b)}
    (found,) = learned_activations(nn.Sequential(layer), history=history)
    np.testing.assert_array_equal(found.start, found.learned)
    (found,) = learned_activations(nn.Sequential(layer))
    initial = layer.initial_functions(torch.from_numpy(found.x)).numpy()
    np.testing.assert_array_equal(found.start, np.broadcast_to(initial, found.learned.shape))
    assert np.abs(found.start - found.learned).max() > 1e-3


def test_without_inputs(layer):
    (without,) = learned_activations(nn.Sequential(layer), [])
    assert without.histogram is None
    assert forward_pre_hooks(layer) == 0
