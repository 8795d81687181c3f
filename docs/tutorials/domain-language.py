# %% [markdown]
# # GR-KAN for language
#
# This page puts a learnable gate into a Llama of Hugging Face's transformers. It trains the model from scratch on the
# docstrings of Python's standard library. The page needs a checkout of the repository, because text, tokens and
# training loop are in `examples/domains/language.py`. **One run of a toy model is no evidence**; results of [five
# seeds](../domains.md#language) are below. If your model is already trained, [kanify](language-model.py) it instead.

# %%
import sys
from argparse import Namespace
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from IPython.display import Markdown
from transformers import LlamaConfig, LlamaForCausalLM

import kat

folders = (path / "examples/domains" for path in (Path.cwd(), *Path.cwd().parents))
sys.path.insert(0, str(next(filter(Path.is_dir, folders))))

import language
import look
import training

plt.style.use("kat.analysis.figures.style")

_ = torch.manual_seed(0)

# %% [markdown]
# ## The two lines that change
#
# Llama's MLP is gated, W₂ (SiLU(W₁ x) · V x). `kat.GatedGRKANMlp` has a learned function in place of SiLU. Attention,
# embeddings and the head stay as they are, and `generate` still uses its cache of keys and values.

# %%
config = LlamaConfig(
    vocab_size=4096, hidden_size=192, intermediate_size=576, num_hidden_layers=6,
    num_attention_heads=6, tie_word_embeddings=True, pad_token_id=0,
)  # fmt: skip
model = LlamaForCausalLM(config)
for layer in model.model.layers:
    layer.mlp = kat.GatedGRKANMlp(192, 576)
print(f"{model.num_parameters():,} parameters")
print(model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=4))

# %% [markdown]
# ## A short training
#
# Here the model has two blocks instead of six, to keep this page fast. The error is bits per byte on modules that are
# not in the training data.

# %%
language.BLOCKS, language.VALID, language.TEST, training.EVALUATIONS = 2, 8, 16, 6
run = partial(language.run, Namespace(docs=Path(), compile=False, generate=0))
model, row = look.once(run, "docstrings", "gated_grkan", rate=4e-3, steps=24)
plt.figure(figsize=(6, 3), layout="constrained")
plt.plot(*zip(*row["curve"], strict=True), marker=".")
plt.xlabel("tokens seen")
plt.ylabel("bits per byte, validation")
print(f"{row['test']:.3f} bits per byte after {row['tokens']:,} tokens")
_ = look.functions(model)

# %% [markdown]
# The panels show the learned functions, one line for each group of channels. The dashed line is SiLU, the initial
# function of all groups.
#
# ## Results of the full runs
#
# The table and the figure have ratios of bits over five seeds, on Python's documentation, with 95 % intervals. In the
# figure, the layer that is named first has the lower error left of 1. Gray intervals contain 1.

# %%
Markdown(look.results("language"))

# %% [markdown]
# GR-KAN needs 2.0 % fewer bits than GELU. Gated GR-KAN needs 1.6 % fewer bits than SwiGLU.
# `python examples/domains/language.py` repeats the runs.
