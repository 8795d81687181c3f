# %% [markdown]
# # KAT in your own training loop
#
# `kat train` learns one class for each image, boxes, or masks. For other targets write the loop yourself: a KAT of timm
# is a PyTorch model like any other. This page trains one to find **several labels** in an image, and another to predict
# **a number**, in 40 lines of PyTorch besides the data. Then it does the same with Hugging Face's Trainer and with
# Lightning. **One run of a toy model is no evidence about KAT**; see [results](../results.md).

# %%
import os
import tempfile

import matplotlib.pyplot as plt
import timm
import torch
from sklearn.datasets import load_digits
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.transforms.functional import InterpolationMode, rotate

import kat  # registers the KATs in timm

os.chdir(tempfile.mkdtemp())
_ = torch.manual_seed(0)

# %% [markdown]
# ## Two kinds of targets
#
# The data are scikit-learn's 1797 handwritten digits. Test images are made of digits that no training image contains.
#
# - `two_digits` puts two digits into an image. The target has ten values, 1 for each digit in the image, else 0.
# - `turned_digits` turns a digit by up to 45 degrees. The target is the angle, divided by 45: the usual learning rates
#   suit targets between about -1 and 1.

# %%
digits = load_digits()
labels = torch.tensor(digits.target)
pixels = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
small = functional.interpolate(pixels, size=14, mode="bilinear")[:, 0]
large = functional.interpolate(pixels, size=28, mode="bilinear")
train_part, test_part = torch.randperm(len(labels)).split([1400, 397])


def two_digits(part, count):
    """Return images (count, 1, 28, 28) of two digits, and which digits they are, (count, 10)."""
    chosen = part[torch.randint(len(part), (count, 2))]
    quarters = torch.zeros(count, 4, 14, 14)
    places = torch.rand(count, 4).argsort(1)[:, :2]
    quarters[torch.arange(count)[:, None], places] = small[chosen]
    images = quarters.view(count, 2, 2, 14, 14).transpose(2, 3).reshape(count, 1, 28, 28)
    return images, torch.zeros(count, 10).scatter(1, labels[chosen], 1.0)


def turned_digits(part, count):
    """Return images (count, 1, 28, 28) of turned digits, and their angles / 45, (count, 1)."""
    chosen = part[torch.randint(len(part), (count,))]
    turns = 2 * torch.rand(count, 1) - 1
    pairs = zip(large[chosen], turns, strict=True)
    images = [rotate(image, 45 * turn.item(), InterpolationMode.BILINEAR) for image, turn in pairs]
    return torch.stack(images), turns


# %% [markdown]
# ## The loop
#
# Only one line is about KAT: `kat.param_groups` excludes the coefficients of the
# [rationals](../first-principles.md#a-quotient-that-cannot-blow-up) from weight decay, which would pull them towards
# zero. `AveragedModel` is PyTorch's exponential moving average (EMA) of the weights. It averages the coefficients like
# any other parameter.


# %%
def new_model(outputs):
    """Return a KAT with 0.2 million parameters for gray images of 28 x 28 pixels."""
    return timm.create_model("kat_micro_patch7_28", num_classes=outputs, in_chans=1)


def train(model, draw, loss_function, steps):
    """Train on a new batch in each step, and return the EMA of the model."""
    optimizer = torch.optim.AdamW(kat.param_groups(model, lr=3e-3, weight_decay=0.05))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.98))
    for _ in range(steps):
        images, targets = draw(train_part, 64)
        loss = loss_function(model(images), targets)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        ema.update_parameters(model)
    return ema.module.eval()


# %% [markdown]
# ## Several labels
#
# The loss is the binary cross entropy of each of the ten outputs. The model finds a digit if the sigmoid of its output
# is above 0.5, which is the case if the output is above 0.

# %%
bce = functional.binary_cross_entropy_with_logits
finder = train(new_model(10), two_digits, bce, steps=800)
images, targets = two_digits(test_part, 2000)
with torch.inference_mode():
    found = finder(images) > 0
right = found == targets.bool()
print(f"images with all ten outputs right: {100 * right.all(1).float().mean():.1f} %")
print(f"outputs right: {100 * right.float().mean():.1f} %")
print(f"outputs right if the model finds no digit: {100 * (1 - targets.mean()):.1f} %")

figure, axes = plt.subplots(1, 6, figsize=(9, 1.8), layout="constrained")
for axis, image, row in zip(axes, images, found, strict=False):
    axis.imshow(image[0], cmap="gray_r")
    axis.set(xticks=[], yticks=[], title=f"found: {row.nonzero()[:, 0].tolist()}")

# %% [markdown]
# ## A number
#
# The model has one output. A constant prediction shows what the error is without a model.

# %%
protractor = train(new_model(1), turned_digits, functional.mse_loss, steps=300)
images, targets = turned_digits(test_part, 2000)
with torch.inference_mode():
    errors = 45 * (protractor(images) - targets).abs()
print(f"mean absolute error: {errors.mean():.1f} degrees")
print(f"of a constant: {45 * (targets - targets.median()).abs().mean():.1f} degrees")

# %% [markdown]
# ## Save and load
#
# The state dict includes the coefficients. To load it, call `timm.create_model` with the arguments that built the
# model.

# %%
torch.save(finder.state_dict(), "two_digits.pth")
again = timm.create_model(
    "kat_micro_patch7_28", num_classes=10, in_chans=1, checkpoint_path="two_digits.pth"
)
images, _ = two_digits(test_part, 8)
print("same logits:", torch.equal(again.eval()(images), finder(images)))

# %% [markdown]
# ## With Hugging Face's Trainer
#
# Pass an optimizer: the one that Trainer makes applies its `weight_decay` to the coefficients, too. A row of the data
# has the argument of the model, `x`, and the `labels`. Without `label_names` Trainer drops the labels, because the
# model has no such argument.

# %%
from transformers import Trainer, TrainingArguments

model = new_model(10)
optimizer = torch.optim.AdamW(kat.param_groups(model, lr=3e-3, weight_decay=0.05))
images, targets = two_digits(train_part, 512)
rows = [{"x": image, "labels": target} for image, target in zip(images, targets, strict=True)]
trainer = Trainer(
    model,
    TrainingArguments("checkpoints", label_names=["labels"], disable_tqdm=True),
    train_dataset=rows,
    optimizers=(optimizer, None),  # Trainer makes the schedule
    compute_loss_func=lambda logits, labels, **_: bce(logits, labels),
)
trainer.train()
trainer.save_model("with_trainer")  # checkpoint_path="with_trainer/model.safetensors" loads it

# %% [markdown]
# ## With Lightning
#
# Install it with `pip install lightning`. This code did not run when the page was built; a test of the library runs it.
#
# ```python
# import lightning
# from lightning.pytorch.callbacks import EMAWeightAveraging
# from torch.utils.data import DataLoader, TensorDataset
#
#
# class Finder(lightning.LightningModule):
#     def __init__(self):
#         super().__init__()
#         self.model = new_model(10)
#
#     def training_step(self, batch, index):
#         images, targets = batch
#         return bce(self.model(images), targets)
#
#     def configure_optimizers(self):
#         return torch.optim.AdamW(kat.param_groups(self.model, lr=3e-3, weight_decay=0.05))
#
#
# finder = Finder()
# loader = DataLoader(TensorDataset(images, targets), batch_size=64, shuffle=True)
# trainer = lightning.Trainer(max_epochs=1, callbacks=[EMAWeightAveraging(decay=0.98)])
# trainer.fit(finder, loader)
# torch.save(finder.model.state_dict(), "with_lightning.pth")
# ```
#
# ## What a loop needs from this library
#
# | | your own loop | Trainer | Lightning |
# |---|---|---|---|
# | weight decay | `kat.param_groups` | the same | the same |
# | EMA | `AveragedModel` | `AveragedModel`, updated in a callback's `on_step_end` | `EMAWeightAveraging` |
# | save | `model.state_dict()` | `save_model` | `finder.model.state_dict()` |
# | load | `import kat`, `timm.create_model` | the same | the same |
#
# So a loop needs two things: the import, and `kat.param_groups`. After Lightning's `fit` the model has the averaged
# weights. In a `.ckpt` file of Lightning the names of the weights begin with `model.`.
#
# With your own images, take the batches from a `DataLoader` in place of `draw`. For photographs build
# `kat_tiny_patch16_224`, and give it the weights of a ViT: `kat.models.init_from_vit(model,
# "vit_tiny_patch16_224.augreg_in21k")`.
#
# If an optimizer decays the coefficients, a warning at its first step names the line to write. For SGD and Muon see
# [optimizers](../own-model.md#train-it), for ONNX [export your own model](../deployment.md#export-your-own-model).
#
# ## Why `kat train` does not have these tasks
#
# A task of `kat train` is a format of data, a metric that selects the best checkpoint, predictions and a report. With
# one class per image these are the same in most projects. With several labels they differ: one column or ten, one
# threshold or ten, F1 or average precision. With numbers they depend on the unit and on the errors that matter. The
# settings for all this would be longer than the loop on this page.
#
# The file `two_digits.pth` does not say what its outputs mean, so `kat.load`, `kat eval` and `kat predict` do not open
# it. If you need exact resuming, several GPUs or reports, [write a task](../../CONTRIBUTING.md#a-task): the outline
# there is regression. [Other data](../data.md#other-data) names tools for other tasks.
