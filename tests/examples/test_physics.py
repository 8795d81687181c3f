"""The example of physics: equal arms, solutions, edges, residuals, rationals without a kink."""

from __future__ import annotations

import pytest
import torch

import kat
from tests.examples.domains import ARMS, size


def test_networks_of_physics_have_equal_arms(example):
    physics = example("physics")
    sizes = [size(physics.Net(arm)) for arm in physics.DOMAIN.rates]
    assert len(sizes) == len(ARMS) + 3
    assert max(sizes) < 1.02 * min(sizes)


def test_smooth_rationals_learn_no_kink(example):
    """The odd b_j stay zero, so that Q is the same polynomial on both sides of zero."""
    physics = example("physics")
    torch.manual_seed(0)
    odd = {}
    for arm in ("grkan", "smooth"):
        net = physics.Net(arm).double()
        optimizer = torch.optim.AdamW(kat.param_groups(net, 1e-2))
        p = physics.points(physics.EQUATIONS["heat"], 32)
        physics.residual(net, physics.EQUATIONS["heat"], p).square().mean().backward()
        optimizer.step()
        odd[arm] = net.blocks[0].act2.weight_denominator[:, ::2].abs().max()
    assert odd["grkan"] > 1e-3
    assert odd["smooth"] == 0


@pytest.mark.parametrize("name", ["poisson", "heat", "burgers"])
def test_solutions_solve_their_equations(example, name):
    physics = example("physics")
    equation = physics.EQUATIONS[name]
    p = physics.points(equation, 64, torch.Generator().manual_seed(0))
    p[:, 1].clamp_(min=0.02)

    def residual(solution):
        q = p.clone().requires_grad_()
        u = solution(q)
        (first,) = torch.autograd.grad(u.sum(), q, create_graph=True)
        rows = [torch.autograd.grad(first[:, i].sum(), q, create_graph=True)[0] for i in (0, 1)]
        second = torch.stack([rows[0][:, 0], rows[1][:, 1]], 1)
        return equation.residual(q, u, first, second).detach().abs().max()

    assert residual(equation.solution) < 1e-10
    assert residual(lambda q: equation.solution(q) + q.square().prod(1)) > 0.01


@pytest.mark.parametrize("name", ["poisson", "heat", "burgers"])
def test_every_network_meets_the_values_that_the_solution_has_at_the_edges(example, name):
    physics = example("physics")
    equation = physics.EQUATIONS[name]
    net = physics.Net("tanh").double()
    edges = [physics.points(equation, 32) for _ in range(4)]
    edges[0][:, 0], edges[1][:, 0], edges[2][:, 1] = equation.left, 1.0, 0.0
    edges[3][:, 1] = 1.0
    for edge in edges[: 4 if name == "poisson" else 3]:
        u = physics.value(net, equation, edge)
        assert (u - equation.solution(edge)).abs().max() < 1e-12


def test_the_residual_is_that_of_finite_differences(example):
    physics = example("physics")
    equation = physics.EQUATIONS["burgers"]
    torch.manual_seed(0)
    net = physics.Net("gated_grkan").double()
    p, h = physics.points(equation, 16), 1e-4
    u = physics.value(net, equation, p)
    first, second = torch.zeros(16, 2), torch.zeros(16, 2)
    for i in (0, 1):
        step = h * torch.eye(2, dtype=torch.float64)[i]
        more, less = (physics.value(net, equation, p + s * step) for s in (1, -1))
        first[:, i], second[:, i] = (more - less) / (2 * h), (more - 2 * u + less) / h**2
    expected = equation.residual(p, u, first, second)
    torch.testing.assert_close(
        physics.residual(net, equation, p).float(), expected.float(), rtol=1e-3, atol=1e-3
    )
