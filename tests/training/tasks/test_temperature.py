"""Temperature scaling, against torch's cross entropy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from kat.errors import InputError
from kat.training.tasks.classification.temperature import fit_temperature


def test_the_gradient_of_the_loss_is_zero_at_the_temperature():
    generator = torch.Generator().manual_seed(0)
    true = torch.randn(4000, 5, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(true.softmax(1), 1, generator=generator)[:, 0]
    found = fit_temperature(3 * true.numpy(), labels.numpy())
    assert found == pytest.approx(3, abs=0.2)
    inverse = torch.tensor(1 / found, requires_grad=True)
    functional.cross_entropy(3 * true * inverse, labels).backward()
    assert inverse.grad.item() == pytest.approx(0, abs=1e-4)


def test_logits_that_are_always_right_have_no_temperature():
    with pytest.raises(InputError, match="determine no temperature"):
        fit_temperature(np.eye(3), np.arange(3))
