# %% [markdown]
# # Kanify a language model
#
# `kat.kanify(model)` replaces the activations of a trained model by [rationals](../first-principles.md#a-quotient-that-cannot-blow-up), learnable functions.
# The output of the model changes only by the error of the fit. The model here is a small Llama of Hugging Face's
# transformers, which this page trains. The SiLU in its MLPs, W₂ (SiLU(W₁ x) · V x), becomes learnable. **One run of a
# toy model is no evidence that this helps**; [results](../results.md) says when it does.

# %%
import pydoc_data.topics

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import kat

_ = torch.manual_seed(0)

# %% [markdown]
# ## A model and a text
#
# The text is part of every Python installation. A token is a byte.

# %%
text = "\n".join(pydoc_data.topics.topics.values()).encode("ascii", "ignore")
tokens = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
split = int(0.9 * len(tokens))
print(f"{len(tokens):,} bytes")


def batches(part, count, size=16, length=64):
    """Yield batches (size, length) from random places of a part of the text."""
    for _ in range(count):
        starts = torch.randint(len(part) - length, (size, 1))
        yield part[starts + torch.arange(length)]


def train(model, steps, lr):
    """Train on the first nine tenths of the text, and return the loss of each step."""
    optimizer = torch.optim.AdamW(kat.param_groups(model, lr))
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
    """Return the bits per byte on the last tenth of the text."""
    model.eval()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        losses = [model(input_ids=ids, labels=ids).loss for ids in batches(tokens[split:], 16)]
    model.train()
    return (sum(losses) / len(losses) / torch.log(torch.tensor(2.0))).item()


config = LlamaConfig(
    vocab_size=128, max_position_embeddings=64, hidden_size=96, intermediate_size=256,
    num_hidden_layers=2, num_attention_heads=4,
)  # fmt: skip
model = LlamaForCausalLM(config)
losses = train(model, 200, lr=3e-3)
print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f}; {bits_per_byte(model):.4f} bits per byte")

# %% [markdown]
# ## Kanify
#
# With `calibration=`, `kanify` runs the model on a few batches. It then fits each rational over its own inputs.

# %%
calibration = [{"input_ids": ids} for ids in batches(tokens[:split], 4)]
before = bits_per_byte(model)
plan = kat.kanify(model, calibration=calibration)
print(plan)
print(f"bits per byte: {before:.4f} before, {bits_per_byte(model):.4f} after")

# %% [markdown]
# The gate of every MLP now has learnable functions, one for each of eight groups of channels.
# `kat.kanify(model, "layers.0")` replaces only one MLP. `config=kat.KanifyConfig(groups=4)` makes four groups.
#
# ## Train only the activations

# %%
coefficients = [p for name, p in model.named_parameters() if "act_fn" in name]
model.requires_grad_(False)
for parameter in coefficients:
    parameter.requires_grad_(True)
count = sum(p.numel() for p in coefficients)
print(f"{count} of {sum(p.numel() for p in model.parameters()):,} parameters")
adapted = train(model, 120, lr=1e-2)
print(f"bits per byte: {bits_per_byte(model):.4f}")

# %% [markdown]
# ## Save and load
#
# transformers saves the model, and `load_pretrained` loads it with its rationals.

# %%
import tempfile
from pathlib import Path

from kat.models import load_pretrained

folder = Path(tempfile.mkdtemp())
model.save_pretrained(folder)

again = load_pretrained(AutoModelForCausalLM, folder)
print(f"loaded: {bits_per_byte(again):.4f} bits per byte")

# %% [markdown]
# [Kanify](../kanify.md) describes the options. It also lists the tested models, from BERT to Mixtral and DINOv2.
