# %% [markdown]
# # GR-KAN for physics
#
# A physics-informed network is trained on the residual of an equation, so its activation is differentiated
# three times: twice by the equation, once by the optimizer. A rational has all of these derivatives, but
# after training they may jump at 0. `kat.nn.keep_even` prevents this; the arm `smooth` uses it. Here
# Poisson's equation on the unit square, -(u_xx + u_yy) = f, is solved with GELU, GR-KAN and smooth GR-KAN, by
# the functions of `examples/domains/physics.py`. That folder comes with a checkout of the repository
# (`git clone`), in which this page has to run.

# %%
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from IPython.display import Markdown

import kat

folders = (path / "examples/domains" for path in (Path.cwd(), *Path.cwd().parents))
sys.path.insert(0, str(next(filter(Path.is_dir, folders))))

import look
import physics

_ = torch.manual_seed(0)

# %% [markdown]
# ## The line that changes
#
# The network is plain PyTorch, with two residual MLPs between linear maps. One line replaces the MLPs.

# %%
equation = physics.EQUATIONS["poisson"]
net = physics.Net("gelu")
net.blocks = torch.nn.ModuleList(kat.GRKANMlp(32, 96) for _ in net.blocks)
net.double()
print("residual:", physics.residual(net, equation, physics.points(equation, 4)).tolist())

# %% [markdown]
# ## A short training
#
# The boundary values are right by construction, and the loss is the residual at 128 random points per step.
# The network is never given the solution.

# %%
arms = ("gelu", "grkan", "smooth")
runs = {arm: look.once(physics.run, "poisson", arm, rate=1e-2, steps=160) for arm in arms}
for arm, (net, row) in runs.items():
    size = sum(p.numel() for p in net.parameters())
    print(f"{arm}: {size:,} parameters, relative L2 error {row['test']:.4f}")

# %%
axis = torch.linspace(0, 1, 101).double()
grid = torch.cartesian_prod(axis, axis)
solution = equation.solution(grid)
values = [physics.value(net, equation, grid).detach() for net, _ in runs.values()]
off = [(value - solution).view(101, 101).T for value in values]
limit = max(each.abs().max() for each in off)
figure, panels = plt.subplots(1, 5, figsize=(15, 3), layout="constrained")
image = panels[0].pcolormesh(axis, axis, solution.view(101, 101).T)
panels[0].set(title="the solution u", xlabel="x", ylabel="y")
figure.colorbar(image)
for panel, arm, field in zip(panels[1:4], arms, off, strict=True):
    image = panel.pcolormesh(axis, axis, field, cmap="RdBu_r", vmin=-limit, vmax=limit)
    panel.set(title=f"error of {arm}", xlabel="x")
    panels[4].semilogy(*zip(*runs[arm][1]["curve"], strict=True), label=arm)
figure.colorbar(image)
panels[4].set(title="residual at other points", xlabel="step")
panels[4].legend()
_ = look.functions(runs["grkan"][0])

# %% [markdown]
# The panels in a row show the learned functions, one line for each group of channels. Dashed lines are the
# initial functions: the identity before the first linear map of an MLP, Swish before the second.
#
# ## The whole runs
#
# One seed and few steps decide nothing. `examples/domains/plan.yaml` declares the runs that are compared. The
# table has their errors, and the figure the paired ratios of errors with 95 % intervals: left of 1 the error
# is lower, and a gray interval contains 1.

# %%
Markdown(look.results("physics"))

# %% [markdown]
# In short: with its defaults GR-KAN has several times the error of GELU on two of the three equations. With
# `keep_even` no difference is shown.
#
# [Other domains](../domains.md#physics) has the equations and the arms;
# `python examples/domains/physics.py` makes the runs.
