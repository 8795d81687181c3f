"""The module in which a value stops being finite."""

from __future__ import annotations

import torch
from torch import nn

from kat.training.nonfinite import find_layer, find_origin


def test_a_sum_between_modules_is_found_at_the_input_of_the_next():
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
    assert find_layer(model, lambda: model(torch.zeros(1, 1))) is None
    with torch.no_grad():
        for part in (model[1].left, model[1].right):
            part.bias.fill_(3e38)
    finding = find_layer(model, lambda: model(torch.zeros(1, 1)))
    assert (finding.layer, finding.cause) == ("1.last", "overflow")
    assert finding.detail == "1.last is the first layer that is not finite, at its input"
    model(torch.full((1, 1), torch.nan))  # nothing watches any more


def test_images_that_are_not_finite_are_found_in_a_list():
    images = [torch.zeros(3, 8, 8), torch.full((3, 4, 8), torch.nan)]
    finding = find_origin(nn.Identity(), images, lambda: None, "batch 3")
    assert finding.cause == "input"
    assert "number 1 in" in finding.detail
