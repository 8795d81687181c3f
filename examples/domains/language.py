"""Language: GR-KAN in the Llama of transformers, trained from scratch on documentation.

    pip install "kolmogorov-arnold-transformer[domains]"
    python examples/domains/language.py --arm gelu grkan --seed 1 --steps 2     # a first look
    apt-get install python3-doc                                     # Debian's, more text
    python examples/domains/language.py --task python3-doc
    python examples/domains/language.py --task python3-doc --table              # of what is done

Body: LlamaForCausalLM with 6 blocks of width 192 and 4,096 tokens, 3.0 M parameters; only the MLP
of each block is exchanged, which takes one line (make_model). Everything else of transformers works
as before: generate with its cache of keys and values (--generate), torch.compile (--compile).

Text, split by document, the same for all arms and seeds: a tenth to choose the rate, a tenth to
test, the rest to train. The tokens are those of a byte-level BPE, made by tokenizers from the
training documents alone.
  docstrings    of the standard library of the Python that runs this, a document a module; 1.7 MB
  python3-doc   Python's documentation, a document a page; 11.5 MB; apt-get install python3-doc
  doc-rfc-std   the RFCs that are standards; apt-get install doc-rfc-std (Debian, non-free)
  anarchism     An Anarchist FAQ, prose on politics, a document a page; 11.7 MB; apt-get install
                anarchism

Error: bits per byte on held-out documents, sum of -log2 p(token) over the bytes of the tokens,
which a tokenizer with other tokens leaves comparable. Column curve: bits per byte of the validation
documents after so many tokens, as pairs "tokens:bits". Each arm tries three learning rates.
"""

from __future__ import annotations

import argparse
import ast
import gzip
import math
import random
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from extra import needed
from torch import Tensor, nn
from torch.nn import functional

with needed():
    from layers import ARMS, REFERENCES, mlp
    from runner import Domain, Trial
    from tokenizers import ByteLevelBPETokenizer
    from training import train
    from transformers import LlamaConfig, LlamaForCausalLM

PAGES = {
    "python3-doc": "python3*/html/_sources/**/*.rst.txt",
    "doc-rfc-std": "RFC/**/*.txt*",
    "anarchism": "anarchism/markdown/*.md.gz",
}
"""By Debian package, the files that it has in /usr/share/doc."""
VOCABULARY, WIDTH, HIDDEN, BLOCKS, HEADS = 4096, 192, 576, 6, 6
BATCH, CONTEXT = 8, 256
VALID, TEST = 48, 256
"""How many windows of CONTEXT tokens are validated and tested on, evenly spaced over the part."""
END = "<|end|>"
DOMAIN = Domain(
    doc=__doc__,
    name="language",
    tasks=["docstrings", *PAGES],
    rates=dict.fromkeys(ARMS, (1e-3, 2e-3, 4e-3)),
    references=REFERENCES,
    steps=400,
    columns=("tokens", "curve"),
)


def main() -> None:
    """Makes the runs that the CSV file lacks, and prints the table."""
    parser = DOMAIN.parser()
    parser.add_argument("--compile", action="store_true", help="train with torch.compile")
    parser.add_argument(
        "--generate", type=int, default=0,
        help="after each test run that is made, continue a test document by so many tokens",
    )  # fmt: skip
    parser.add_argument(
        "--docs", type=Path, default=Path("/usr/share/doc"),
        help="where Debian's packages put their texts, by default %(default)s",
    )  # fmt: skip
    parser.set_defaults(task=["docstrings"])
    options = parser.parse_args()
    DOMAIN.main(options, partial(run, options))


@dataclass
class Text:
    """The tokens of each part, one tensor each, and how many bytes every token stands for."""

    tokenizer: ByteLevelBPETokenizer
    train: Tensor
    valid: Tensor
    test: Tensor
    bytes_of_token: Tensor


def run(
    options: argparse.Namespace,
    trial: Trial,
    make: Callable[[str], LlamaForCausalLM] | None = None,
    choose: Callable[[Tensor, int], Tensor] | None = None,
    make_optimizers: Callable[[nn.Module], list[torch.optim.Optimizer]] | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
    """One run of an arm: the model, by default of make_model, and its bits per byte.

    ``choose`` takes the windows of validation and test from the tokens, by default spaced_windows.
    """
    text = read(trial.task, options.docs)
    model = (make or make_model)(trial.arm).to(trial.device)
    torch.manual_seed(trial.seed)  # the same batches for all arms, whose weights draw differently
    forward = torch.compile(model) if options.compile else model
    windows = text.train.unfold(0, CONTEXT + 1, 1)

    def loss() -> Tensor:
        batch = windows[torch.randint(len(windows), (BATCH,))].to(trial.device)
        logits = forward(input_ids=batch[:, :-1]).logits
        return functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())

    choose = choose or spaced_windows
    valid = choose(text.valid, VALID)
    error = partial(bits_per_byte, model, valid, text.bytes_of_token)
    row = train(trial, model, loss, error, 0.1, 1.0, make_optimizers)
    row["curve"] = [(step * BATCH * CONTEXT, bits) for step, bits in row["curve"]]
    row["tokens"] = trial.steps * BATCH * CONTEXT
    if trial.tuning:
        return model, row
    nats, sizes = window_nats(model, choose(text.test, TEST), text.bytes_of_token)
    row["test"] = (nats.sum() / math.log(2) / sizes.sum()).item()
    row["windows"] = " ".join(f"{value:.3f}" for value in nats.tolist())
    if options.generate:
        print(f"  {complete(model, text, text.test[: CONTEXT // 8], options.generate)!r}")
    return model, row


def make_model(arm: str) -> LlamaForCausalLM:
    """A Llama whose MLPs are those of an arm; attention and embeddings are drawn the same."""
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=HIDDEN,
        num_hidden_layers=BLOCKS, num_attention_heads=HEADS, max_position_embeddings=4 * CONTEXT,
        tie_word_embeddings=True, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    for layer in model.model.layers:
        layer.mlp = mlp(arm, WIDTH, HIDDEN)
    return model


def spaced_windows(tokens: Tensor, count: int) -> Tensor:
    """``count`` windows that are evenly spaced over the tokens, or all that there are."""
    return spaced(tokens.unfold(0, CONTEXT + 1, CONTEXT), count)


def spaced(rows: Tensor, count: int) -> Tensor:
    """``count`` evenly spaced rows of a tensor, or all that there are."""
    return rows[torch.linspace(0, len(rows) - 1, min(count, len(rows))).round().long()]


def bits_per_byte(model: nn.Module, windows: Tensor, sizes: Tensor) -> float:
    """Over windows (n, CONTEXT + 1); ``sizes`` are the bytes of each token."""
    nats, lengths = window_nats(model, windows, sizes)
    return (nats.sum() / math.log(2) / lengths.sum()).item()


@torch.no_grad()
def window_nats(model: nn.Module, windows: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """The nats and the bytes of each window of :func:`bits_per_byte`."""
    device = next(model.parameters()).device
    nats = []
    for batch in windows.split(BATCH):
        logits = model(input_ids=batch[:, :-1].to(device)).logits
        targets = batch[:, 1:].to(device)
        losses = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        nats.append(losses.view(targets.shape).double().sum(1).cpu())
    return torch.cat(nats), sizes[windows[:, 1:]].sum(1)


def complete(model: LlamaForCausalLM, text: Text, prompt: Tensor, count: int) -> str:
    """A prompt of tokens (n,) and the ``count`` most probable ones after it."""
    device = next(model.parameters()).device
    given = prompt[None].to(device)
    ids = model.generate(
        given, attention_mask=torch.ones_like(given), max_new_tokens=count, do_sample=False
    )
    return str(text.tokenizer.decode(ids[0].tolist()))


@cache
def read(task: str, docs: Path) -> Text:
    """The documents of a text, split, and as tokens."""
    documents = sorted(docstrings() if task == "docstrings" else pages(task, docs))
    random.Random(0).shuffle(documents)
    tenth = max(1, len(documents) // 10)
    parts = documents[2 * tenth :], documents[:tenth], documents[tenth : 2 * tenth]
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(parts[0], VOCABULARY, special_tokens=[END], show_progress=False)
    tokens = []
    for part in parts:
        encoded = tokenizer.encode_batch(part)
        tokens.append(torch.tensor([i for document in encoded for i in (*document.ids, 0)]))
    # A token of a byte-level BPE has a character for each byte.
    names = [tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size())]
    sizes = torch.tensor([0, *(len(name) for name in names[1:])])
    return Text(tokenizer, *tokens, sizes)


def docstrings() -> Iterator[str]:
    """The docstrings of each module of the standard library that has 500 characters of them."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in root.rglob("*.py"):
        if {"site-packages", "dist-packages", "test", "tests"} & set(path.relative_to(root).parts):
            continue
        try:
            nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        except (SyntaxError, UnicodeDecodeError):  # lib2to3 and others have such files, on purpose
            continue
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        found = [ast.get_docstring(node) or "" for node in nodes if isinstance(node, kinds)]
        document = "\n\n".join(filter(None, found))
        if len(document) >= 500:
            yield document


def pages(package: str, docs: Path) -> Iterator[str]:
    """The texts of a Debian package, each once, where it has links to them.

    Raises:
        SystemExit: the package is not installed.
    """
    paths = {path.resolve() for path in docs.glob(PAGES[package]) if path.is_file()}
    if not paths:
        raise SystemExit(f"{package} has no text in {docs}: apt-get install {package}")
    for path in paths:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        yield content.decode("utf-8", errors="replace")


if __name__ == "__main__":
    main()
