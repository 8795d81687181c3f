# %% [markdown]
# # GR-KAN for hard images
#
# How well does a model trained on few images classify images that are partly hidden by a square? Here the
# MLPs of timm's `VisionTransformer` are replaced, and the model learns from 1,000 images of Fashion-MNIST,
# with the data and the training loop of `examples/domains/images.py`. That folder comes with a checkout of
# the repository (`git clone`), in which this page has to run. The images come from Debian:
# `apt-get install dataset-fashion-mnist`. Without them the page shows only the results of the whole runs.

# %%
import sys
from argparse import Namespace
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from IPython.display import Markdown
from timm.models.vision_transformer import VisionTransformer

import kat
from kat.data import DataConfig, open_split

folders = (path / "examples/domains" for path in (Path.cwd(), *Path.cwd().parents))
sys.path.insert(0, str(next(filter(Path.is_dir, folders))))

import images
import look

# %% [markdown]
# ## The line that changes
#
# timm's Vision Transformers have the argument `mlp_layer=`. In an existing model, set
# `block.mlp = kat.GRKANMlp(64, 192)`.

# %%
vit = VisionTransformer(
    img_size=28, patch_size=7, in_chans=1, num_classes=10, embed_dim=64, depth=4, num_heads=4,
    mlp_ratio=3, mlp_layer=kat.GRKANMlp,
)  # fmt: skip
print(vit(torch.randn(2, 1, 28, 28)).shape)

# %% [markdown]
# ## A short training
#
# Training images are shifted and flipped, but never occluded. The error is 1 - accuracy, here on 1,000 of the
# test images. The whole runs use all test images.

# %%
arms, cpu, models = ("gelu", "grkan"), torch.device("cpu"), {}
try:
    pixels, labels = (part[:1000] for part in images.read("fashion_mnist", "val"))
except SystemExit as problem:
    print(f"No training here: {problem}")
else:
    run = partial(images.run, Namespace(data="fashion_mnist"))
    tests = {"as they are": pixels, "occluded": images.occluded(pixels)}
    for arm in arms:
        models[arm], _ = look.once(run, "fashion-1000", arm, rate=1.5e-3, steps=200, tuning=True)
        for name, changed in tests.items():
            error = images.error(models[arm], images.Images(changed, labels), cpu)
            print(f"{arm}, {name}: {error:.3f}")

# %%
if models:
    names = open_split(DataConfig("fashion_mnist"), "val").classes
    hidden = tests["occluded"][:8]
    figure, axes = plt.subplots(1, 8, figsize=(12, 2.4), layout="constrained")
    guesses = {arm: model(hidden).argmax(1) for arm, model in models.items()}
    for i, axis in enumerate(axes):
        said = [f"{arm}: {names[guess[i]]}" for arm, guess in guesses.items()]
        axis.imshow(hidden[i, 0], cmap="gray")
        axis.set_title("\n".join([f"is: {names[labels[i]]}", *said]), fontsize=9, loc="left")
        axis.axis("off")
    look.functions(models["grkan"])

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
Markdown(look.results("images"))

# %% [markdown]
# In short: GR-KAN gains nothing on occluded images, with any number of training images. With 10,000 training
# images, GR-KAN's error is 9 % below that of GELU, and SwiGLU's is 14 % below. With 54,000 images and longer
# training, GR-KAN is ahead of SwiGLU ([results](../results.md)); why the order changes is not known.
#
# [Other domains](../domains.md#hard-images) has the data and the arms;
# `python examples/domains/images.py` makes the runs.
