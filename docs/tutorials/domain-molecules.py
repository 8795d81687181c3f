# %% [markdown]
# # GR-KAN for molecules
#
# A graph isomorphism network has an MLP in each layer of message passing. Here the MLPs of PyTorch
# Geometric's `GINEConv` are replaced, and the network learns solubilities in water from RDKit's 1,282
# molecules, with the data and the training loop of `examples/domains/molecules.py`. That folder comes with a
# checkout of the repository (`git clone`), in which this page has to run.

# %%
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from IPython.display import Markdown
from torch import nn
from torch_geometric.nn import GINEConv

import kat

folders = (path / "examples/domains" for path in (Path.cwd(), *Path.cwd().parents))
sys.path.insert(0, str(next(filter(Path.is_dir, folders))))

import look
import molecules

# %% [markdown]
# ## The two lines that change
#
# `conv.nn` is set afterwards, because a `GINEConv` initializes the weights of the network that it is given
# anew.

# %%
conv = GINEConv(nn.Identity())
conv.nn = nn.Sequential(nn.BatchNorm1d(64), kat.GRKANMlp(64, 192))

atoms, bonds = torch.randn(3, 64), torch.randn(4, 64)
edges = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])  # ethanol: C-C-O
print(conv(atoms, edges, bonds).shape)

# %% [markdown]
# ## A short training
#
# The model has three such layers and a sum over the atoms. `boosting` is gradient boosting on Morgan
# fingerprints and RDKit's descriptors. The error is the RMSE in log₁₀ of mol/l on the test part of the data
# set.

# %%
arms = {"gelu": 3e-3, "grkan": 3e-3, "boosting": 0.1}
runs = {
    arm: look.once(molecules.run, "solubility", arm, rate, steps=200) for arm, rate in arms.items()
}
for arm, (_, row) in runs.items():
    print(f"{arm}: RMSE {row['test']:.2f}")

# %%
test = molecules.read("solubility").test.all
figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
for axis, arm in zip(axes, ("gelu", "grkan"), strict=False):
    net, row = runs[arm]
    with torch.no_grad():
        axis.plot(test.y, net(test), ".", ms=4, alpha=0.6)
    axis.axline((0, 0), slope=1, color="black", lw=0.8)
    axis.set(title=arm, xlabel="measured log S", ylabel="predicted log S")
    axis.set(xlim=(-11, 3), ylim=(-11, 3), aspect="equal")
    axes[2].plot(*zip(*row["curve"], strict=True), label=arm)
axes[2].set(xlabel="step", ylabel="validation RMSE", ylim=(0, 3))
_ = axes[2].legend()
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
Markdown(look.results("molecules"))

# %% [markdown]
# In short: no difference between GR-KAN and GELU is shown, and boosting on descriptors has the lowest mean
# error.
#
# [Other domains](../domains.md#molecules) has the data and the arms;
# `python examples/domains/molecules.py` makes the runs.
