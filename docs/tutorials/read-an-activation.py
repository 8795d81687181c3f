# %% [markdown]
# # Read what an activation learned
#
# `kat plot activations RUN` draws the activations of a trained KAT, its [rationals](../first-principles.md#a-quotient-that-cannot-blow-up). This page does the
# same in Python. It also shows which known functions the activations are close to, and when they changed.

# %%
import os
import subprocess
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from kat.analysis import learned_activations, read_symbols
from kat.data import DataConfig, eval_transform, open_split, preprocessing
from kat.models import load_model
from kat.nn import read_coefficient_history

plt.style.use("kat.analysis.figures.style")

os.chdir(tempfile.mkdtemp())
command = "kat train --config digits --epochs 15 --out runs/digits --no-progress"
done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
print(done.stdout.strip().splitlines()[-1])

# %% [markdown]
# ## Draw the functions and their inputs
#
# The values of a rational matter only where it has inputs, so draw the density of the inputs too.

# %%
model, record = load_model(Path("runs/digits"))
settings = DataConfig("digits")
data = open_split(settings, "val")
data.transform = eval_transform(preprocessing(settings, data))
images = torch.stack([data[index][0] for index in range(len(data))])

activations = learned_activations(model, [images])
figure, axes = plt.subplots(2, 4, figsize=(11, 5), layout="constrained")
for axis, activation in zip(axes.T.flat, activations, strict=True):
    density = activation.histogram.mean(0)
    axis.stairs(density / density.max(), activation.edges, fill=True, color="0.9")
    axis.plot(activation.x, activation.learned.T, lw=1)
    axis.plot(activation.x, activation.start[0], "k--", lw=1)
    axis.set(title=activation.name, ylim=(-2, 3))

# %% [markdown]
# Each column is a block. The upper rational comes before the first linear map and started as the identity. The lower
# rational comes before the second linear map and started as SiLU. Gray is the density of the inputs.
#
# ## Find the closest known function
#
# For each group `read_symbols` finds the closest known function, up to scale and shift. It compares over the inputs of
# the group. The distance is 0 for the same function, and 1 if the known function is no better than a constant.

# %%
for activation in activations[-2:]:
    for reading in read_symbols(activation)[:4]:
        print(
            f"{activation.name} group {reading.group}: {reading.nearest}, distance"
            f" {reading.distance:.3f} (next {reading.second}, {reading.second_distance:.3f});"
            f" moved by {reading.from_start:.2f}"
        )

# %% [markdown]
# If a function has hardly changed, the closest known function is its initial function, and says nothing about the data.
# If the second function is almost as close, the data do not decide between the two.
#
# ## See when the functions changed
#
# A run records its coefficients every few steps.

# %%
history = read_coefficient_history(Path("runs/digits/coefficients.csv"))
layer = history["blocks.0.mlp.act2"]
x = torch.linspace(-3, 3, 200)
functions = layer.functions(x)
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
shades = plt.get_cmap("viridis")(torch.linspace(0, 1, len(layer.steps)).numpy())
for values, shade in zip(functions[:, 0], shades, strict=True):
    left.plot(x, values, color=shade, lw=0.8)
left.set(title="group 0 of blocks.0.mlp.act2, early to late", xlabel="x")
for name, one in history.items():
    start = one.functions(x)[0]
    change = (one.functions(x) - start).square().mean((1, 2)).sqrt()
    right.plot(one.steps, change, label=name.removeprefix("blocks."))
right.set(xlabel="step", ylabel="RMS change on [-3, 3]")
right.legend(fontsize=7)
print(f"{len(layer.steps)} records of {functions.shape[1]} groups")

# %% [markdown]
# `kat plot evolution runs/digits --out evolution.gif` animates this change. `kat report runs/digits` writes the
# figures of this page, and more, as one page ([reports](../plots.md)).
