"""Tracing models: programs run where kat is not installed."""

from __future__ import annotations

import torch

from kat.deploy.tracing import trace
from kat.nn import GroupRational
from tests.models.small import images, make_model


class Shifted(GroupRational):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + 0.1


def test_a_rational_that_freezing_keeps_is_plain_operations_too():
    model, record = make_model()
    model.blocks[0].mlp.act2 = Shifted(4)
    program = trace(model, record)
    assert not [node for node in program.graph.nodes if "kat" in str(node.target)]
    torch.testing.assert_close(program.module()(images(3)), model(images(3)), rtol=1e-4, atol=1e-4)
