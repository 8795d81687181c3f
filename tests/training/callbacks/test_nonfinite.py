"""Which module a value comes from that is not finite."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import nn

from kat.training.callbacks.nonfinite import Attempt, diagnose, first_not_finite, random_state


def test_a_sum_between_modules_counts_as_the_module_around_it():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right, self.last = nn.Linear(1, 1), nn.Linear(1, 1), nn.Linear(1, 1)

        def forward(self, x):
            return self.last(input=self.left(x) + self.right(x))

    class Named(nn.Sequential):
        def forward(self, x):
            for module in self:
                x = module(x=x)
            return x

    model = Named(Sum(), Sum())
    assert first_not_finite(model, lambda: model(torch.zeros(1, 1))) is None
    with torch.no_grad():
        for part in (model[1].left, model[1].right):
            part.bias.fill_(3e38)
    finding = first_not_finite(model, lambda: model(torch.zeros(1, 1)))
    assert (finding.layer, finding.cause) == ("1", "overflow")
    model(torch.full((1, 1), torch.nan))  # nothing watches any more


def test_images_that_are_not_finite_are_found_in_a_list():
    images = [torch.zeros(3, 8, 8), torch.full((3, 4, 8), torch.nan)]
    random = random_state(torch.device("cpu"))
    attempt = Attempt(images, torch.tensor(torch.nan), random, lambda: None)
    finding = diagnose(nn.Identity(), attempt, "batch 3", nullcontext())
    assert finding.cause == "input"
    assert "number 1 of the 2 in batch 3" in finding.detail
