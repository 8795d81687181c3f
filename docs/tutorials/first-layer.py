# %% [markdown]
# # Your first layer
#
# Replace `nn.GELU` by `kat.GroupRational`, and the network learns its own activation functions. This page trains a
# small network and draws the functions that it learned. **One run of a toy model is no evidence that this helps**;
# [results](../results.md) says when it does.
#
# The activation is a *rational*, a quotient of two polynomials F(x) = P(x) / Q(x) with learned coefficients. Each
# group of channels has its own function ([KAT from first principles](../first-principles.md)).

# %%
import matplotlib.pyplot as plt
import torch
from torch import nn

import kat

_ = torch.manual_seed(0)
plt.style.use("kat.analysis.figures.style")

# %% [markdown]
# ## Replace GELU
#
# The activation accepts any shape with the channels last. It starts close to a known function, here GELU.

# %%
act = kat.GroupRational(num_groups=8, init="gelu")
x = torch.linspace(-3, 3, 192)
print("largest difference from GELU:", (act(x) - nn.functional.gelu(x)).abs().max().item())
print({name: tuple(p.shape) for name, p in act.named_parameters()})

# %% [markdown]
# The layer has 38 coefficients: 6 of one numerator for all groups, and 4 of a denominator for each of 8 groups.
# `share=` changes what groups share, and `degree=` the degrees of the polynomials ([groups](../first-principles.md#groups)).
#
# ## Train it
#
# The target is a wave whose frequency grows to the right. `kat.param_groups` makes a group of the coefficients, which
# has no weight decay. With AdamW the training loop needs no other change. For SGD and Muon see [how to train
# it](../own-model.md#train-it).

# %%
inputs = torch.linspace(-1, 1, 512)[:, None]
targets = torch.sin(8 * (inputs + 1) ** 2)
model = nn.Sequential(
    nn.Linear(1, 32), kat.GroupRational(8, init="gelu"),
    nn.Linear(32, 32), kat.GroupRational(8, init="gelu"),
    nn.Linear(32, 1),
)  # fmt: skip
optimizer = torch.optim.AdamW(kat.param_groups(model, lr=1e-2))
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 500)
losses = []
for _ in range(500):
    loss = nn.functional.mse_loss(model(inputs), targets)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
    losses.append(loss.item())
print(f"loss {losses[0]:.2f} -> {losses[-1]:.1e}")

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
left.semilogy(losses)
left.set(xlabel="step", ylabel="mean squared error")
right.plot(inputs, model(inputs).detach(), label="network")
right.plot(inputs, targets, "k:", lw=0.8, label="target")
right.set(xlabel="x")
_ = right.legend()

# %% [markdown]
# ## What it learned
#
# Each panel is one activation, and each line is one group of channels. The dashed line is the initial function of all
# groups, GELU.

# %%
x = torch.linspace(-4, 4, 400)
figure, axes = plt.subplots(1, 2, figsize=(10, 3.2), layout="constrained")
for axis, layer in zip(axes, (model[1], model[3]), strict=True):
    axis.plot(x, layer.functions(x).T.detach())
    axis.plot(x, layer.initial_functions(x)[0], "k--", lw=1)
    axis.set(xlabel="x", ylim=(-4, 6))
axes[0].set_title("after the first linear map")
_ = axes[1].set_title("after the second")

# %% [markdown]
# ## The whole MLP
#
# `kat.GRKANMlp` has the signature of timm's `Mlp`, so timm's models accept it as `mlp_layer=`. It applies a rational
# before each of its two linear maps. Each rational runs together with its linear map. The pair stores one tensor for
# the backward pass instead of two.

# %%
from timm.models.vision_transformer import VisionTransformer

vit = VisionTransformer(
    img_size=32, patch_size=8, embed_dim=64, depth=2, num_heads=4, mlp_layer=kat.GRKANMlp
)
print(vit(torch.randn(2, 3, 32, 32)).shape)
print(vit.blocks[0].mlp)

# %% [markdown]
# Next: [train on your folder](train-on-your-folder.py), or make the activations of a trained network learnable
# ([kanify](../kanify.md)).
