# %% [markdown]
# # Your first layer
#
# An activation function is usually chosen once, by somebody else. Here a network learns its own: we replace
# `nn.GELU` by `kat.GroupRational` in a network of a few lines, train both networks, and look at the learned
# functions.
#
# The function is a quotient of two polynomials, F(x) = P(x) / Q(x), with coefficients for each group of
# channels ([the function](../function.md)).

# %%
import matplotlib.pyplot as plt
import torch
from torch import nn

import kat

_ = torch.manual_seed(0)

# %% [markdown]
# ## In the place of GELU
#
# The activation accepts any shape with the channels last. It starts as a known function, here GELU, so the
# network starts like the network with `nn.GELU`.

# %%
act = kat.GroupRational(num_groups=8, init="gelu")
x = torch.linspace(-3, 3, 192)
print("largest difference from GELU:", (act(x) - nn.functional.gelu(x)).abs().max().item())
print({name: tuple(p.shape) for name, p in act.named_parameters()})

# %% [markdown]
# These are 38 coefficients: one numerator for all groups and a denominator for each group, as in the released
# models. `share=` changes what is shared, and `degree=` the degrees of the polynomials
# ([groups](../function.md#groups)).
#
# ## A target with a hard shape
#
# The target is a wave whose frequency grows to the right. Two networks of the same width learn it, one with
# GELU and one with learnable activations.

# %%
inputs = torch.linspace(-1, 1, 512)[:, None]
targets = torch.sin(8 * (inputs + 1) ** 2)


def network(activation):
    """Two hidden layers of 32 channels; `activation` makes a new one for each."""
    return nn.Sequential(
        nn.Linear(1, 32), activation(), nn.Linear(32, 32), activation(), nn.Linear(32, 1)
    )


def trained(activation, seed):
    """A network after 500 steps, and its loss at each of them."""
    torch.manual_seed(seed)
    model = network(activation)
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
    return model, losses


# %% [markdown]
# `kat.param_groups` puts the coefficients into a parameter group of their own, without weight decay. They are
# two-dimensional, so most recipes would decay them like weights. With Adam and its relatives this is all that a
# training loop changes; SGD and Muon need [a little more](../optimizers.md).

# %%
runs = {
    "GELU": [trained(nn.GELU, seed) for seed in range(2)],
    "rational": [trained(lambda: kat.GroupRational(8, init="gelu"), seed) for seed in range(2)],
}
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
for color, (name, results) in zip(("tab:gray", "tab:blue"), runs.items(), strict=True):
    for index, (_, losses) in enumerate(results):
        left.semilogy(losses, color=color, lw=0.8, label=name if index == 0 else None)
    right.plot(inputs, results[0][0](inputs).detach(), color=color, label=name)
    print(f"{name}: loss {', '.join(f'{losses[-1]:.1e}' for _, losses in results)}")
right.plot(inputs, targets, "k:", lw=0.8, label="target")
left.set(xlabel="step", ylabel="mean squared error")
right.set(xlabel="x")
left.legend()
_ = right.legend()

# %% [markdown]
# Each network was trained with two seeds. The rational network has 76 parameters more than the GELU network,
# which has 1,153. The [results page](../results.md) compares the two on images.
#
# ## What it learned
#
# Each panel is one activation, and each line one group of channels. The dashed line is GELU, the initial
# function of all groups.

# %%
model, _ = runs["rational"][0]
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
# In a transformer the rational and the linear map after it are fused: they keep one tensor for the backward
# pass instead of two. `kat.GRKANMlp` has the signature of timm's `Mlp`, so it can be the `mlp_layer=` of a
# timm model:

# %%
from timm.models.vision_transformer import VisionTransformer

vit = VisionTransformer(
    img_size=32, patch_size=8, embed_dim=64, depth=2, num_heads=4, mlp_layer=kat.GRKANMlp
)
print(vit(torch.randn(2, 3, 32, 32)).shape)
print(vit.blocks[0].mlp)

# %% [markdown]
# Next: [train on your folder](train-on-your-folder.py), or give learnable activations to a network that is
# already trained ([kanify](../kanify.md)).
