# %% [markdown]
# # GR-KAN for tables
#
# The networks of this field are an MLP with residual connections, called ResNet, and the FT-Transformer, both
# from `rtdl_revisiting_models`. The baseline to beat is gradient boosting. Here the MLPs of the ResNet are
# replaced, with the data and the training loop of `examples/domains/tables.py`. That folder comes with a
# checkout of the repository (`git clone`), in which this page has to run.

# %%
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import rtdl_revisiting_models as rtdl
import torch
from IPython.display import Markdown

import kat

folders = (path / "examples/domains" for path in (Path.cwd(), *Path.cwd().parents))
sys.path.insert(0, str(next(filter(Path.is_dir, folders))))

import look
import tables

# %% [markdown]
# ## The two lines that change
#
# In the FT-Transformer the feed-forward part is replaced. In the ResNet a block consists of its norm, the MLP
# and a dropout.

# %%
transformer = rtdl.FTTransformer(n_cont_features=6, cat_cardinalities=[3], d_out=1, n_blocks=2,
    d_block=64, attention_n_heads=4, attention_dropout=0.1, ffn_d_hidden=192,
    ffn_d_hidden_multiplier=None, ffn_dropout=0.0, residual_dropout=0.0)  # fmt: skip
for block in transformer.backbone.blocks:
    block["ffn"] = kat.GRKANMlp(64, 192)

resnet = rtdl.ResNet(d_in=9, d_out=1, n_blocks=2, d_block=64, d_hidden=192,
    d_hidden_multiplier=None, dropout1=0.0, dropout2=0.1)  # fmt: skip
for i, block in enumerate(resnet.blocks):
    resnet.blocks[i] = torch.nn.Sequential(
        block.normalization, kat.GRKANMlp(64, 192), block.dropout2
    )
print(transformer(torch.randn(5, 6), torch.zeros(5, 1, dtype=int)).shape)
print(resnet(torch.randn(5, 9)).shape)

# %% [markdown]
# ## A short training
#
# The tables ask whether a mortgage is denied (Hdma), how people voted in Chile's plebiscite, and what a
# computer costs. Rows are split into 64, 16 and 20 %. Numbers go through a quantile transform that is fitted
# on the first part. The error is 1 - accuracy, or the RMSE divided by the standard deviation of the target.

# %%
names = ("Hdma", "Chile", "Computers")
arms = {"resnet/gelu": 2.5e-3, "resnet/grkan": 2.5e-3, "boosting": 0.1}
runs = {
    (name, arm): look.once(tables.run, name, arm, rate, steps=200)
    for name in names
    for arm, rate in arms.items()
}
figure, axis = plt.subplots(figsize=(7, 2.4), layout="constrained")
for arm, marker in zip(arms, "ox|", strict=True):
    errors = [runs[name, arm][1]["test"] for name in names]
    axis.plot(errors, names, marker, ms=10, mfc="none", mew=1.5, label=arm)
axis.set(xlabel="test error", xlim=(0, None), ylim=(2.5, -0.5))
axis.grid(axis="x", alpha=0.3)
_ = axis.legend()
_ = look.functions(runs["Computers", "resnet/grkan"][0])

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
Markdown(look.results("tables"))

# %% [markdown]
# In short: GR-KAN lowers the error on two tables of prices, where boosting is ahead of both networks, and
# hardly changes it on the others.
#
# [Other domains](../domains.md#tables) has the tables and the arms;
# `python examples/domains/tables.py` makes the runs.
