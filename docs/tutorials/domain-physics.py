# %% [markdown]
# # GR-KAN for physics
#
# A physics-informed network learns a solution only from the equation, so its loss contains second derivatives of the
# network. Call `kat.nn.keep_even` on such a network: without it the derivatives of a trained rational may jump at 0
# ([why](../higher-order.md)). This page solves Poisson's equation on the unit square, -(u_xx + u_yy) = f with u = 0 on
# the boundary. **One run of a toy model is no evidence**; over five seeds and three equations [no gain over
# GELU](../domains.md#physics) was seen.

# %%
import math

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

import kat
from kat.analysis import learned_activations

plt.style.use("kat.analysis.figures.style")

_ = torch.manual_seed(0)

# %% [markdown]
# ## The network
#
# The network N is plain PyTorch: two residual MLPs between linear maps. Two lines make it a GR-KAN: `kat.GRKANMlp`, and
# `keep_even` before the optimizer is made.


# %%
class Network(nn.Module):
    """Points (n, 2) of the unit square to numbers (n,)."""

    def __init__(self, width: int = 32, hidden: int = 96) -> None:
        super().__init__()
        self.first = nn.Linear(2, width)
        self.blocks = nn.ModuleList(kat.GRKANMlp(width, hidden) for _ in range(2))
        self.last = nn.Linear(width, 1)

    def forward(self, p: Tensor) -> Tensor:
        x = self.first(2 * p - 1)
        for block in self.blocks:
            x = x + block(x)
        return self.last(x)[:, 0]


net = Network().double()
kat.nn.keep_even(net)

# %% [markdown]
# ## The equation
#
# The factor x (1 - x) y (1 - y) makes u = 0 on the boundary, so that the residual is the whole loss. f is chosen such
# that the solution is known; training does not use it.


# %%
def solution(p: Tensor) -> Tensor:
    """Return sin(pi x) sin(pi y) + sin(4 pi x) sin(3 pi y) / 4."""
    x, y = math.pi * p.T
    return x.sin() * y.sin() + (4 * x).sin() * (3 * y).sin() / 4


def value(p: Tensor) -> Tensor:
    """Return u = 16 x (1 - x) y (1 - y) N."""
    return 16 * (p * (1 - p)).prod(1) * net(p)


def residual(p: Tensor) -> Tensor:
    """Return u_xx + u_yy + f at the points p (n, 2), over 2 pi^2, the size of f's first term."""
    p = p.detach().requires_grad_()
    (first,) = torch.autograd.grad(value(p).sum(), p, create_graph=True)
    second = [
        torch.autograd.grad(first[:, i].sum(), p, create_graph=True)[0][:, i] for i in range(2)
    ]
    x, y = math.pi * p.T
    f = 2 * x.sin() * y.sin() + 25 / 4 * (4 * x).sin() * (3 * y).sin()
    return (second[0] + second[1]) / (2 * math.pi**2) + f / 2


print("residual:", residual(torch.rand(4, 2).double()).tolist())

# %% [markdown]
# ## A short training
#
# The loss is the mean square of the residual at 128 random points per step.

# %%
steps = 160
optimizer = torch.optim.AdamW(kat.param_groups(net, lr=1e-2))
schedule = torch.optim.lr_scheduler.OneCycleLR(
    optimizer, [group["lr"] for group in optimizer.param_groups], steps
)
curve = []
for _ in range(steps):
    loss = residual(torch.rand(128, 2).double()).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
    curve.append(loss.item() ** 0.5)

# %%
axis = torch.linspace(0, 1, 101).double()
grid = torch.cartesian_prod(axis, axis)
error = value(grid).detach() - solution(grid)
print(f"relative error: {error.norm() / solution(grid).norm():.3f}")
figure, panels = plt.subplots(1, 3, figsize=(12, 3), layout="constrained")
for panel, title, field in zip(
    panels, ("the solution u", "error"), (solution(grid), error), strict=False
):
    image = panel.pcolormesh(axis, axis, field.view(101, 101).T)
    panel.set(title=title, xlabel="x", ylabel="y")
    panel.grid(visible=False)
    figure.colorbar(image)
panels[2].semilogy(curve)
_ = panels[2].set(title="residual", xlabel="step")

# %%
learned = learned_activations(net, width=3)
figure, panels = plt.subplots(1, len(learned), figsize=(12, 2.5), layout="constrained")
for panel, act in zip(panels, learned, strict=True):
    panel.plot(act.x, act.learned.T, lw=1)
    panel.plot(act.x, act.start[0], "k--", lw=1)
    panel.set_title(act.name)

# %% [markdown]
# The panels show the learned functions, one line for each group of channels. Dashed lines are the initial functions:
# the identity before the first linear map of an MLP, SiLU before the second.
#
# ## Results of the full runs
#
# The [table of the full runs](../domains.md#physics) has ratios of errors over five seeds, with 95 % intervals.
# With its defaults GR-KAN has several times the error of GELU on the two linear equations. After `keep_even` no
# difference from GELU is seen. [An earlier commit](../domains.md#run-the-plan-again) has the script of these runs.
