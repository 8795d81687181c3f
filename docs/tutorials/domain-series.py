# %% [markdown]
# # GR-KAN for series
#
# PatchTST divides a series into patches, to which a transformer attends. Here the MLPs of its blocks are
# replaced, and the model forecasts the weekly CO2 of Mauna Loa, 52 weeks from the 104 before, with the data
# and the training loop of `examples/domains/series.py`. That folder comes with a checkout of the repository
# (`git clone`), in which this page has to run.

# %%
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from IPython.display import Markdown
from transformers import PatchTSTConfig, PatchTSTForPrediction

import kat

folders = (path / "examples/domains" for path in (Path.cwd(), *Path.cwd().parents))
sys.path.insert(0, str(next(filter(Path.is_dir, folders))))

import look
import series

# %% [markdown]
# ## The two lines that change
#
# The same lines work for `PatchTSTForClassification`.

# %%
config = PatchTSTConfig(
    context_length=104, prediction_length=52, patch_length=8, patch_stride=4,
    num_hidden_layers=3, d_model=64, ffn_dim=192, num_attention_heads=4,
)  # fmt: skip
model = PatchTSTForPrediction(config)
for layer in model.model.encoder.layers:
    layer.ff = kat.GRKANMlp(64, 192)
print(model(past_values=torch.randn(2, 104, 1)).prediction_outputs.shape)

# %% [markdown]
# ## A short training
#
# The first 70 % of the weeks are for training, the last 20 % for testing. The error is the RMSE divided by
# that of the seasonal naive forecast, which repeats the value of 52 weeks before. Below 1 is better than the
# naive forecast. Here `rocket` is a ridge regression on the window.

# %%
arms = {"gelu": 1e-3, "grkan": 1e-3, "rocket": 100.0}
runs = {
    arm: look.once(series.run, "forecast-co2", arm, rate, steps=120) for arm, rate in arms.items()
}
for arm, (_, row) in runs.items():
    print(f"{arm}: {row['test']:.3f} of the error of the seasonal naive forecast")

# %%
test = series.forecasts().test
past, future = test.series[-1, 0], test.target[-1]
weeks = torch.arange(-len(past), len(future))
figure, (left, right) = plt.subplots(1, 2, figsize=(12, 3.4), layout="constrained",
    width_ratios=(2, 1))  # fmt: skip
left.plot(weeks, torch.cat([past, future]), "k", lw=1, label="measured")
left.plot(weeks[len(past) :], past[-52:], ":", color="gray", label="seasonal naive")
for arm in ("gelu", "grkan"):
    model, row = runs[arm]
    forecast = series.predict(model, test.series[-1:], torch.device("cpu"))[0]
    left.plot(weeks[len(past) :], forecast, label=arm)
    right.plot(*zip(*row["curve"], strict=True), label=arm)
left.set(title="the last window", xlabel="week", ylabel="CO2, standardized")
left.legend()
right.set(xlabel="step", ylabel="validation error", ylim=(0, None))
_ = right.legend()
_ = look.functions(runs["grkan"][0])

# %% [markdown]
# The panels in a row show the learned functions, one line for each group of channels. Dashed lines are the
# initial functions: the identity before the first linear map of an MLP, Swish before the second.
#
# ## The whole runs
#
# One seed and few steps decide nothing. `examples/domains/plan.yaml` declares the runs that are compared, on
# nine classification data sets and this forecast. The table has their errors, and the figure the paired
# ratios of errors with 95 % intervals: left of 1 the error is lower, and a gray interval contains 1.

# %%
Markdown(look.results("series"))

# %% [markdown]
# In short: no difference between GR-KAN and GELU is shown on any of the data sets, and MiniRocket has the
# lowest mean error on nearly all.
#
# [Other domains](../domains.md#series) has the sets and the arms;
# `python examples/domains/series.py` makes the runs.
