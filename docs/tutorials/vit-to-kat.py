# %% [markdown]
# # From a ViT to a KAT, and to ONNX
#
# `convert_vit` copies the weights of a trained Vision Transformer into a KAT that computes nearly the same function.
# This page then trains the KAT further, and exports it to a file that needs neither this library nor PyTorch. The ViT
# here is trained in seconds on scikit-learn's handwritten digits. For a ViT of your own, pass its file or its name in
# timm ([checkpoints](../checkpoints.md)). **One run of a toy model is no evidence**; [results](../results.md) compares
# the two models.

# %%
import os
import subprocess
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from kat.data import DataConfig, eval_transform, open_split, preprocessing
from kat.models import convert_vit, load_model, save_model

plt.style.use("kat.analysis.figures.style")

os.chdir(tempfile.mkdtemp())


def shell(command, lines=3):
    """Run a command and show the end of what it prints."""
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    print(f"$ {command}", *done.stdout.strip().splitlines()[-lines:], sep="\n")


shell(
    "kat train --config digits --model.name vit_micro_patch2_8 --epochs 20 --optim.lr 0.003"
    " --out runs/vit --no-progress"
)

# %% [markdown]
# ## Convert
#
# `convert_vit` copies attention, norms, embeddings and both linear maps of each MLP. The KAT also has learned
# functions, called [rationals](../first-principles.md#a-quotient-that-cannot-blow-up). The first rational of each MLP starts as the identity, exactly.
# `convert_vit` fits the second to GELU, over the inputs that it has for a few images.

# %%
settings = DataConfig("digits")
data = open_split(settings, "val")
data.transform = eval_transform(preprocessing(settings, data))
images = torch.stack([data[index][0] for index in range(len(data))])
labels = torch.tensor([data[index][1] for index in range(len(data))])

vit, _ = load_model(Path("runs/vit"))
model, record, report = convert_vit(Path("runs/vit"), "kat_micro_patch2_8", images=images[:64])
print(report.summary())

# %% [markdown]
# The outputs changed by the error of the fits. Compare ViT and KAT on every digit of the validation split:


# %%
@torch.no_grad()
def top1(model):
    """Return the top-1 accuracy on the validation split in percent."""
    return 100 * (model(images).argmax(1) == labels).float().mean().item()


with torch.no_grad():
    before, after = vit(images), model(images)
print(f"ViT {top1(vit):.2f} %, KAT {top1(model):.2f} %")
print(f"predictions that differ: {(before.argmax(1) != after.argmax(1)).sum().item()} of 360")

figure, axis = plt.subplots(figsize=(4.2, 4), layout="constrained")
axis.plot(before.flatten(), after.flatten(), ".", ms=2)
_ = axis.set(xlabel="logits of the ViT", ylabel="logits of the KAT")

# %% [markdown]
# ## Train it further
#
# Now train the activations with the weights. `--init-from` accepts the converted folder, and also the ViT.

# %%
save_model(model, record, Path("converted"))
shell(
    "kat train --config digits --model.name kat_micro_patch2_8 --init-from converted --epochs 8"
    " --optim.lr 0.0005 --out runs/kat --no-progress"
)
model, record = load_model(Path("runs/kat"))
print(f"KAT, trained further: {top1(model):.2f} %")

# %% [markdown]
# The KAT had eight more epochs of training than the ViT, so these numbers do not show which is better.
#
# ## Export to ONNX
#
# The file contains only standard operators, the names of the classes and the preprocessing. `kat export` keeps the file
# only if the logits of file and model agree.

# %%
shell("kat export runs/kat --out digits.onnx")

# %%
import onnxruntime

session = onnxruntime.InferenceSession("digits.onnx")
(logits,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
with torch.no_grad():
    difference = np.abs(logits - model(images).numpy()).max() / np.abs(logits).max()
print(f"largest difference, relative to the largest logit: {difference:.1e}")
print(f"top-1 of the file: {100 * (logits.argmax(1) == labels.numpy()).mean():.2f} %")

# %% [markdown]
# `kat eval` and `kat predict` accept the file in place of a run. [Deployment](../deployment.md) has other formats.
