# %% [markdown]
# # GR-KAN for physics
#
# A physics-informed network learns a solution only from the equation, so its loss contains second derivatives of the
# network. Call `kat.nn.keep_even` on such a network: without it the derivatives of a trained rational may jump at 0
# ([why](../higher-order.md)). This page solves Poisson's equation on the unit square, -(u_xx + u_yy) = f. The page
# needs `examples/domains/physics.py` from a checkout of the repository. **One run of a toy model is no evidence**; over
# five seeds and three equations [no gain over GELU](../domains.md#physics) was seen.

# %%
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
import torch

import kat
from kat.analysis import learned_activations

folders = (path / "examples/domains" for path in (Path.cwd(), *Path.cwd().parents))
sys.path.insert(0, str(next(filter(Path.is_dir, folders))))

import physics

plt.style.use("kat.analysis.figures.style")

_ = torch.manual_seed(0)

# %% [markdown]
# ## The lines that change
#
# The network is plain PyTorch: two residual MLPs between linear maps. Two lines change it to GR-KAN.

# %%
equation = physics.EQUATIONS["poisson"]
net = physics.Net("gelu")
net.blocks = torch.nn.ModuleList(kat.GRKANMlp(32, 96) for _ in net.blocks)
kat.nn.keep_even(net)
net.double()
print("residual:", physics.residual(net, equation, physics.points(equation, 4)).tolist())

# %% [markdown]
# ## A short training
#
# The boundary values are exact by construction. The loss is the residual at 128 random points per step. Training does
# not use the solution. The name `smooth` selects GR-KAN after `keep_even`.

# %%
cpu, seed, steps = torch.device("cpu"), 1, 160
torch.manual_seed(seed)
with TemporaryDirectory() as folder:
    checkpoint = Path(folder) / "run.ckpt"
    trial = physics.Trial("poisson", "smooth", 1e-2, seed, steps, cpu, checkpoint)
    net, row = physics.run(trial)
axis = torch.linspace(0, 1, 101).double()
grid = torch.cartesian_prod(axis, axis)
solution = equation.solution(grid)
error = physics.value(net, equation, grid).detach() - solution
figure, panels = plt.subplots(1, 3, figsize=(12, 3), layout="constrained")
for panel, title, field in zip(
    panels, ("the solution u", "error"), (solution, error), strict=False
):
    image = panel.pcolormesh(axis, axis, field.view(101, 101).T)
    panel.set(title=title, xlabel="x", ylabel="y")
    panel.grid(visible=False)
    figure.colorbar(image)
panels[2].semilogy(*zip(*row["curve"], strict=True))
_ = panels[2].set(title="residual at other points", xlabel="step")

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
# difference from GELU is seen. `python examples/domains/physics.py` repeats the runs.
