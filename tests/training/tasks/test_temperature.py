"""Temperature scaling, against torch's cross entropy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from kat.errors import InputError
from kat.training.tasks.classification.temperature import fit_temperature


def test_the_temperature_has_the_lowest_cross_entropy_of_all():
    generator = torch.Generator().manual_seed(0)
    true = torch.randn(4000, 5, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(true.softmax(1), 1, generator=generator)[:, 0]
    logits = 3 * true
    temperatures = torch.linspace(2.5, 3.5, 1001, dtype=torch.float64)
    losses = [functional.cross_entropy(logits / t, labels) for t in temperatures]
    best = temperatures[torch.stack(losses).argmin()].item()
    found = fit_temperature(logits.numpy(), labels.numpy())
    assert found == pytest.approx(best, abs=1e-3) == pytest.approx(3, abs=0.2)


def test_logits_that_are_always_right_have_no_temperature():
    with pytest.raises(InputError, match="determine no temperature"):
        fit_temperature(np.eye(3), np.arange(3))
