# %% [markdown]
# # Second-order losses
#
# Some losses contain derivatives of the network itself: the residual of a differential equation, a gradient
# penalty, a force that is the gradient of an energy. The gradient of such a loss needs second derivatives of
# every activation, or third derivatives if the equation has second derivatives. This page solves an equation
# in this way, and shows the one setting that matters.

# %%
import matplotlib.pyplot as plt
import torch
from torch import nn

import kat

_ = torch.manual_seed(0)

# %% [markdown]
# ## Derivatives of derivatives
#
# Higher derivatives are exact in every backend. The figure shows F'' of a rational that is fitted to SiLU,
# from autograd, beside the second derivative of SiLU.

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
# The second derivative of ReLU is zero everywhere except at its kink, so a network of ReLUs learns nothing
# from a loss of second derivatives. A rational that is fitted to a smooth function has a useful second
# derivative.
#
# ## An equation
#
# u'' = -(4π)² sin(4π x) on [0, 1] with u(0) = u(1) = 0 has the solution u = sin(4π x). The network learns it
# from the equation alone: the loss is the mean square of u'' + (4π)² sin(4π x) at random points. The factor x
# (1 - x) makes u zero at both ends.

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
    """A network after so many steps, and its losses."""
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
# Form A has |x| in its denominator. If an odd b_j is not zero, a derivative of F jumps at x = 0, and a loss
# of derivatives at single points does not show the jump. So keep the odd b_j at zero: Q then has only even
# powers, and F is smooth. Those of silu and gelu are zero at the start; `kat.nn.keep_even` sets all to zero
# and keeps them there ([why](../higher-order.md#where-the-derivatives-jump)).


# %%
def even_rational():
    """A rational whose odd b_j stay zero: it has derivatives of every order."""
    act = kat.GroupRational(8, init="tanh")
    kat.nn.keep_even(act)
    return act


runs = {
    "ReLU": solved(nn.ReLU),
    "tanh": solved(nn.Tanh),
    "rational, even": solved(even_rational),
}
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
# ReLU cannot solve the equation, because its loss has no gradient through u''. The rational network solves it
# in 400 steps, in which tanh has hardly begun. This is one seed and one learning rate. `examples/pinn.py`
# makes a careful comparison, with L-BFGS and several seeds ([higher derivatives](../higher-order.md)).
