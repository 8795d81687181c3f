# %% [markdown]
# # GR-KAN for language
#
# Here a Llama from transformers is trained from scratch on the docstrings of Python's standard library, once
# with SwiGLU and once with a learnable gate. Text, tokens and training loop are those of
# `examples/domains/language.py`. That folder comes with a checkout of the repository (`git clone`), in which
# this page has to run. If your model is already trained, [kanify](language-model.py) keeps its weights.

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

_ = torch.manual_seed(0)

# %% [markdown]
# ## The two lines that change
#
# Llama's MLP is gated, W₂ (SiLU(W_g x) · W_x x), and so is `kat.GatedGRKANMlp`. Attention, embeddings and the head
# stay as they are, and `generate` keeps its cache of keys and values.

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
# This model has two blocks instead of six, and few windows for validation, so that it can be trained on this
# page. The error is bits per byte on modules that are not in the training data.

# %%
language.BLOCKS, language.VALID, language.TEST, training.EVALUATIONS = 2, 8, 16, 6
run = partial(language.run, Namespace(docs=Path(), compile=False, generate=0))
arms = ("swiglu", "gated_grkan")
runs = {arm: look.once(run, "docstrings", arm, rate=4e-3, steps=24) for arm in arms}
text = language.read("docstrings", Path())
prompt = torch.tensor([text.tokenizer.encode("Return the number of").ids])
plt.figure(figsize=(6, 3), layout="constrained")
for arm, (model, row) in runs.items():
    curve = [map(float, pair.split(":")) for pair in row["curve"].split()]
    plt.plot(*zip(*curve, strict=True), marker=".", label=arm)
    print(f"{arm}: {row['test']:.3f} bits per byte after {row['tokens']:,} tokens")
    ids = model.generate(prompt, max_new_tokens=16, do_sample=True, top_k=20)
    print(f"  {text.tokenizer.decode(ids[0].tolist())!r}")
plt.xlabel("tokens seen")
plt.ylabel("bits per byte, validation")
_ = plt.legend()
_ = look.functions(runs["gated_grkan"][0])

# %% [markdown]
# Each error is followed by the model's continuation of a docstring, sampled from the 20 most probable tokens.
# The panels in a row show the learned gates, one line for each group of channels. Dashed is SiLU, the initial
# function of all groups.
#
# ## The whole runs
#
# One seed and few steps decide nothing. `examples/domains/plan.yaml` declares the runs that are compared, on
# Python's documentation. The table has their errors, and the figure the paired ratios of errors with 95 %
# intervals: left of 1 the error is lower, and a gray interval contains 1.

# %%
Markdown(look.results("language"))

# %% [markdown]
# In short: GR-KAN needs 2 % fewer bits than GELU, and gated GR-KAN 1.6 % fewer than SwiGLU.
#
# [Other domains](../domains.md#language) has the model and the arms;
# `python examples/domains/language.py` makes the runs.
