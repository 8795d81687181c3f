# %% [markdown]
# # Second-order losses
#
# Call `kat.nn.keep_even(model)` if your loss contains derivatives of the network: the residual of a differential
# equation, a gradient penalty, a force that is the gradient of an energy. This page solves an equation and shows what
# the call changes. **One run of a toy is no evidence**; over five seeds [no gain over GELU](../domains.md#physics) was
# seen in such losses.

# %%
import matplotlib.pyplot as plt
import torch
from torch import nn

import kat

_ = torch.manual_seed(0)

# %% [markdown]
# ## Derivatives of derivatives
#
# Every backend has exact higher derivatives. The figure shows F'' of a rational that is fitted to SiLU, and the
# second derivative of SiLU.

# %%
act = kat.GroupRational(1, init="silu").double()
x = torch.linspace(-4, 4, 401, dtype=torch.float64, requires_grad=True)


def second_derivative(function, x):
    """f''(x) by two backward passes."""
    (first,) = torch.autograd.grad(function(x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x, create_graph=True)
    return second


exact = second_derivative(nn.functional.silu, x).detach()
ours = second_derivative(lambda x: act(x[:, None])[:, 0], x).detach()
plt.figure(figsize=(6, 3), layout="constrained")
plt.plot(x.detach(), exact, "k--", label="SiLU''")
plt.plot(x.detach(), ours, label="F''")
plt.legend()
print(f"largest difference on [-3, 3]: {(exact - ours)[x.abs() <= 3].abs().max():.1e}")

# %% [markdown]
# ## An equation
#
# u'' = -(4π)² sin(4π x) on [0, 1] with u(0) = u(1) = 0 has the solution u = sin(4π x). The loss is the mean square
# of u'' + (4π)² sin(4π x) at random points. The factor x (1 - x) makes u zero at both ends.

# %%
FREQUENCY = 4 * torch.pi


class Solution(nn.Module):
    """u(x) = x (1 - x) N(x) with a network N of two hidden layers."""

    def __init__(self, activation):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(1, 32), activation(), nn.Linear(32, 32), activation(), nn.Linear(32, 1)
        )

    def forward(self, x):
        return x * (1 - x) * self.layers(2 * x - 1)


def residual(model, x):
    """u'' + (4 pi)^2 sin(4 pi x), relative to (4 pi)^2."""
    return second_derivative(model, x) / FREQUENCY**2 + torch.sin(FREQUENCY * x)


def solved(activation, steps=400):
    """Return a trained network and its losses."""
    torch.manual_seed(0)
    model = Solution(activation)
    optimizer = torch.optim.AdamW(kat.param_groups(model, lr=1e-2))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses = []
    for _ in range(steps):
        x = torch.rand(128, 1, requires_grad=True)
        loss = residual(model, x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return model, losses


# %% [markdown]
# ## The setting that matters
#
# Form A has |x| in its denominator. If an odd b_j is not zero, a derivative of F jumps at x = 0. A loss of
# derivatives at single points does not see the jump, so the loss can be small while the solution is wrong.
# `kat.nn.keep_even` sets the odd b_j to zero and keeps them there
# ([why](../higher-order.md#where-the-derivatives-jump)).


# %%
def rational():
    """Return a rational whose derivatives may jump at 0."""
    return kat.GroupRational(8, init="tanh")


def even_rational():
    """Return a rational with derivatives of every order."""
    act = rational()
    kat.nn.keep_even(act)
    return act


runs = {"default": solved(rational), "keep_even": solved(even_rational)}
grid = torch.linspace(0, 1, 300)[:, None]
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
for name, (model, losses) in runs.items():
    left.semilogy(losses, lw=0.8, label=name)
    right.plot(grid, model(grid).detach(), label=name)
    error = (model(grid) - torch.sin(FREQUENCY * grid)).abs().max().item()
    print(f"{name}: loss {losses[-1]:.1e}, largest error of u {error:.1e}")
right.plot(grid, torch.sin(FREQUENCY * grid), "k:", label="solution")
left.set(xlabel="step", ylabel="mean square residual")
right.set(xlabel="x", ylabel="u")
right.legend(fontsize=8)
_ = left.legend(fontsize=8)

# %% [markdown]
# `examples/pinn.py` compares activations with L-BFGS and several seeds ([higher derivatives](../higher-order.md)).
