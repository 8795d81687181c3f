# %% [markdown]
# # Kanify a language model
#
# `kat.kanify` replaces the MLPs of a trained model by GR-KAN MLPs that compute the same, whatever library the
# model is from. Here it is a GPT-2 of Hugging Face's transformers, small enough to be trained on this page.
# Then only the activations learn: how far do some hundred numbers go?

# %%
import pydoc_data.topics

import matplotlib.pyplot as plt
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import kat

_ = torch.manual_seed(0)

# %% [markdown]
# ## A model and a text
#
# The text is Python's own documentation, which every Python has with it; a token is a byte.

# %%
text = "\n".join(pydoc_data.topics.topics.values()).encode("ascii", "ignore")
tokens = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
split = int(0.9 * len(tokens))
print(f"{len(tokens):,} bytes")


def batches(part, count, size=16, length=64):
    """So many batches (size, length) from random places of a part of the text."""
    for _ in range(count):
        starts = torch.randint(len(part) - length, (size, 1))
        yield part[starts + torch.arange(length)]


def train(model, parameters, steps, lr):
    """Trains the parameters on the first nine tenths of the text; the loss of each step."""
    optimizer = torch.optim.AdamW(parameters, lr=lr)
    losses = []
    for ids in batches(tokens[:split], steps):
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@torch.no_grad()
def bits_per_byte(model):
    """On the last tenth of the text, which no training sees."""
    model.eval()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        losses = [model(input_ids=ids, labels=ids).loss for ids in batches(tokens[split:], 16)]
    model.train()
    return (sum(losses) / len(losses) / torch.log(torch.tensor(2.0))).item()


config = GPT2Config(
    vocab_size=128, n_positions=64, n_embd=96, n_layer=2, n_head=4,
    resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
)  # fmt: skip
model = GPT2LMHeadModel(config)
losses = train(model, model.parameters(), 200, lr=3e-3)
print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f}; {bits_per_byte(model):.4f} bits per byte")

# %% [markdown]
# ## Kanify
#
# GPT-2 keeps its weights transposed and calls its GELU `NewGELUActivation`. `kanify` looks at what the code
# computes, so neither matters. With a few batches to calibrate on, each rational is fitted where its inputs
# are; `measure` says how far the model's output moved.

# %%
calibration = [{"input_ids": ids} for ids in batches(tokens[:split], 4)]
before = bits_per_byte(model)
plan = kat.kanify(model, calibration=calibration, measure=calibration[0])
print(plan)
print(f"bits per byte: {before:.4f} before, {bits_per_byte(model):.4f} after")

# %% [markdown]
# The model is the same to the fourth digit, and every MLP now has two functions that can learn.
#
# ## Only the activations
#
# Everything else is frozen. `model.named_parameters()` has the coefficients under names that end in
# `weight_numerator` and `weight_denominator`.

# %%
coefficients = [p for name, p in model.named_parameters() if ".act" in name]
model.requires_grad_(False)
for parameter in coefficients:
    parameter.requires_grad_(True)
count = sum(p.numel() for p in coefficients)
print(f"{count} of {sum(p.numel() for p in model.parameters()):,} parameters")
adapted = train(model, coefficients, 120, lr=1e-2)
print(f"bits per byte: {bits_per_byte(model):.4f}")

# %%
x = torch.linspace(-4, 4, 300)
rationals = {name: m for name, m in model.named_modules() if isinstance(m, kat.GroupRational)}
figure, axes = plt.subplots(1, len(rationals), figsize=(11, 2.8), layout="constrained")
for axis, (name, layer) in zip(axes, rationals.items(), strict=True):
    axis.plot(x, layer.functions(x).T.detach(), lw=1)
    axis.plot(x, layer.initial_functions(x)[0], "k--", lw=1)
    axis.set_title(name.removeprefix("transformer."), fontsize=8)

# %% [markdown]
# Dashed is where each function started: the identity before the first linear map, GELU before the second.
#
# ## Save and load
#
# transformers builds its own classes when it loads. The plan says what to put back; the weights follow.

# %%
import tempfile
from pathlib import Path

from kat.models.kanify import kanify_like

folder = Path(tempfile.mkdtemp())
plan.save(folder / "kanify.json")
torch.save(model.state_dict(), folder / "weights.pt")

again = GPT2LMHeadModel(config)
kanify_like(again, folder / "kanify.json")
again.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
print(f"loaded: {bits_per_byte(again):.4f} bits per byte")

# %% [markdown]
# [Kanify](../kanify.md) has the models that were measured, from BERT to DINOv2, and the options.
