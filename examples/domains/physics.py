"""Physics: networks that solve Poisson's, the heat and Burgers' equation by a loss of residuals.

    pip install "kolmogorov-arnold-transformer[domains]"
    python examples/domains/physics.py --task poisson --seed 1 --steps 20     # a first look
    python examples/domains/physics.py                                        # all of it
    python examples/domains/physics.py --table                                # of what is done

A physics-informed network N (Raissi et al., 2019) is trained to make the residual of an equation
zero at random points; no solution is given to it. A factor that is zero there makes it meet
boundary and initial values, so that the residual is the whole loss:

    poisson   -(u_xx + u_yy) = f on the unit square      u = x (1 - x) y (1 - y) N
    heat      u_t = u_xx / 10, x and t in (0, 1)         u = u(x, 0) + t x (1 - x) N
    burgers   u_t + u u_x = u_xx / (100 pi), x in (-1, 1), t in (0, 1)
                                                         u = u(x, 0) + t (1 - x^2) N

The loss differentiates the network three times, which kat's layers allow. N is a linear map to 32
features, two residual MLPs of the arm, and a linear map to one number, in float64. By default a
rational learns a jump of F' or F'' at 0. A loss at points does not see that, so that the residual
can be small and the error large. The arm smooth is grkan after kat.nn.keep_even, which holds the
odd b_j at zero: F then has all derivatives (docs/higher-order.md). tanh and silu are in use in this
field.

Error: the root of the mean of (u - solution)^2 over that of solution^2, on a grid of 101 x 101
points. Solutions are formulas; Burgers' is that of Cole and Hopf, by quadrature, with a layer at
x = 0 that is as thin as 0.003. What chooses the rate, out of three for each arm, is the residual at
other points (valid), as it would be where no solution is known.

examples/pinn.py looks at one dimension closely: forms of the rational, jumps of u', L-BFGS.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from extra import needed
from torch import Tensor, nn

with needed():
    import numpy as np
    from layers import ARMS, REFERENCES, mlp
    from runner import Domain, Trial
    from training import train

    import kat

WIDTH, HIDDEN, BLOCKS = 32, 96, 2
BATCH, GRID = 128, 101
CONDUCTIVITY, VISCOSITY = 0.1, 0.01 / math.pi


class Equation(NamedTuple):
    """An equation on a rectangle, in the coordinates (x, y) or (x, t) of p (n, 2).

    Args:
        left: where the first coordinate begins; it ends at 1, the second goes from 0 to 1.
        trial: u (n,) from p and N(p) (n,).
        residual: of the equation (n,), from p, u, its derivatives by the coordinates (n, 2), and
            its second derivatives by each of them (n, 2).
        solution: u (n,) from p.
    """

    left: float
    trial: Callable[[Tensor, Tensor], Tensor]
    residual: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    solution: Callable[[Tensor], Tensor]


def poisson_solution(p: Tensor) -> Tensor:
    """sin(pi x) sin(pi y) + sin(4 pi x) sin(3 pi y) / 4."""
    x, y = math.pi * p.T
    return x.sin() * y.sin() + (4 * x).sin() * (3 * y).sin() / 4


def poisson_residual(p: Tensor, u: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """u_xx + u_yy + f, over 2 pi^2, the size of f's first term."""
    x, y = math.pi * p.T
    f = 2 * x.sin() * y.sin() + 25 / 4 * (4 * x).sin() * (3 * y).sin()
    return (second.sum(1) + math.pi**2 * f) / (2 * math.pi**2)


def heat_solution(p: Tensor) -> Tensor:
    """sin(pi x) exp(-k pi^2 t) + sin(3 pi x) exp(-9 k pi^2 t) / 2, k the conductivity."""
    x, decay = math.pi * p[:, 0], CONDUCTIVITY * math.pi**2 * p[:, 1]
    return x.sin() * (-decay).exp() + (3 * x).sin() * (-9 * decay).exp() / 2


def heat_residual(p: Tensor, u: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """u_t - k u_xx."""
    return first[:, 1] - CONDUCTIVITY * second[:, 0]


def burgers_solution(p: Tensor) -> Tensor:
    """- E[sin(pi z) h(z)] / E[h(z)], z ~ N(x, 2 v t), h(z) = exp(-cos(pi z) / (2 pi v))."""
    nodes, weights = map(torch.from_numpy, np.polynomial.hermite.hermgauss(200))
    z = math.pi * (p[:, :1] - 2 * (VISCOSITY * p[:, 1:]).sqrt() * nodes)
    shares = (weights.log() - z.cos() / (2 * math.pi * VISCOSITY)).softmax(1)
    return -(shares * z.sin()).sum(1)


def burgers_residual(p: Tensor, u: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """u_t + u u_x - v u_xx."""
    return first[:, 1] + u * first[:, 0] - VISCOSITY * second[:, 0]


def from_start(solution: Callable[[Tensor], Tensor], left: float) -> Callable[..., Tensor]:
    """u = u(x, 0) + t (x - left) (1 - x) N, for a solution that is 0 at both ends."""

    def trial(p: Tensor, n: Tensor) -> Tensor:
        x, t = p.T
        return solution(torch.stack([x, 0 * t], 1)) + t * (x - left) * (1 - x) * n

    return trial


def inside_square(p: Tensor, n: Tensor) -> Tensor:
    """u = x (1 - x) y (1 - y) N, times 16 for a factor of 1 in the middle."""
    return 16 * (p * (1 - p)).prod(1) * n


def sine(p: Tensor) -> Tensor:
    """-sin(pi x), with which Burgers' equation begins."""
    return -(math.pi * p[:, 0]).sin()


EQUATIONS = {
    "poisson": Equation(0.0, inside_square, poisson_residual, poisson_solution),
    "heat": Equation(0.0, from_start(heat_solution, 0.0), heat_residual, heat_solution),
    "burgers": Equation(-1.0, from_start(sine, -1.0), burgers_residual, burgers_solution),
}
DOMAIN = Domain(
    doc=__doc__,
    name="physics",
    tasks=list(EQUATIONS),
    rates=dict.fromkeys((*ARMS, "smooth", "silu", "tanh"), (3e-3, 1e-2, 3e-2)),
    steps=1000,
    references={**REFERENCES, "smooth": "gelu", "silu": "gelu", "tanh": "gelu"},
)


def main() -> None:
    """Makes the runs that the CSV file lacks, and prints the tables."""
    DOMAIN.main(DOMAIN.parser().parse_args(), run)


def run(trial: Trial) -> tuple[nn.Module, dict[str, Any]]:
    """One run of an arm: the network, its residual and its error."""
    equation = EQUATIONS[trial.task]
    net = Net(trial.arm).to(trial.device, torch.float64)
    others = points(equation, 512, torch.Generator().manual_seed(1)).to(trial.device)

    def loss() -> Tensor:
        return residual(net, equation, points(equation, BATCH).to(trial.device)).square().mean()

    def valid() -> float:
        return residual(net, equation, others).square().mean().sqrt().item()

    return net, train(trial, net, loss, valid) | {"test": error(net, equation, trial.device)}


class Net(nn.Module):
    """N: points (n, 2) of the square from -1 to 1 to numbers (n,)."""

    def __init__(self, arm: str) -> None:
        super().__init__()
        self.first = nn.Linear(2, WIDTH)
        kind = "grkan" if arm == "smooth" else arm
        self.blocks = nn.ModuleList(mlp(kind, WIDTH, HIDDEN) for _ in range(BLOCKS))
        self.last = nn.Linear(WIDTH, 1)
        if arm == "smooth":
            kat.nn.keep_even(self)

    def forward(self, p: Tensor) -> Tensor:
        x = self.first(p)
        for block in self.blocks:
            x = x + block(x)
        return self.last(x)[:, 0]


def points(equation: Equation, count: int, generator: torch.Generator | None = None) -> Tensor:
    """Random points (count, 2) of the rectangle."""
    p = torch.rand(count, 2, dtype=torch.float64, generator=generator)
    p[:, 0] = equation.left + (1 - equation.left) * p[:, 0]
    return p


def value(net: nn.Module, equation: Equation, p: Tensor) -> Tensor:
    """u (n,) at the points p (n, 2)."""
    x, y = p.T
    scaled = torch.stack([2 * (x - equation.left) / (1 - equation.left) - 1, 2 * y - 1], 1)
    return equation.trial(p, net(scaled))


def residual(net: nn.Module, equation: Equation, p: Tensor) -> Tensor:
    """The residual (n,) at the points p (n, 2), differentiable for the parameters."""
    p = p.detach().requires_grad_()
    u = value(net, equation, p)
    gradient = partial(torch.autograd.grad, create_graph=True)
    (first,) = gradient(u.sum(), p)
    second = [gradient(first[:, i].sum(), p)[0][:, i] for i in range(2)]
    return equation.residual(p, u, first, torch.stack(second, 1))


@torch.no_grad()
def error(net: nn.Module, equation: Equation, device: torch.device) -> float:
    """||u - solution|| / ||solution|| on the grid."""
    steps = torch.linspace(0, 1, GRID, dtype=torch.float64)
    p = torch.cartesian_prod(equation.left + (1 - equation.left) * steps, steps)
    solution = equation.solution(p)
    return ((value(net, equation, p.to(device)).cpu() - solution).norm() / solution.norm()).item()


if __name__ == "__main__":
    main()
