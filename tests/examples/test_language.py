"""The example of language: equal arms, text split by document, bits per byte, generation."""

from __future__ import annotations

import re
from argparse import Namespace
from importlib.util import find_spec

import pytest
import torch
from torch import nn

from tests.examples.domains import ARMS, size

pytestmark = pytest.mark.skipif(
    not (find_spec("transformers") and find_spec("tokenizers")),
    reason="transformers and tokenizers, of the extra [domains], are not installed",
)


def test_language_models_have_equal_arms(example):
    language = example("language")
    sizes = [size(language.make_model(arm)) for arm in ARMS]
    assert min(sizes) > 2e6
    assert max(sizes) < min(1.02 * min(sizes), 4e6)


@pytest.fixture(scope="module")
def text(example, tmp_path_factory):
    """Thirty pages as python3-doc has them, with a link to one of them."""
    docs = tmp_path_factory.mktemp("doc")
    pages = docs / "python3.13" / "html" / "_sources"
    pages.mkdir(parents=True)
    for i in range(30):
        (pages / f"{i}.rst.txt").write_text(f"Page {i} naïve.\n" + 200 * f"word{i} and more, ")
    (docs / "python3").symlink_to("python3.13")
    return docs, example("language").read("python3-doc", docs)


def test_text_is_split_by_document_and_counted_in_bytes(text):
    _, made = text
    parts = [made.train, made.valid, made.test]
    decoded = [made.tokenizer.decode(part.tolist()) for part in parts]
    found = [set(map(int, re.findall(r"Page (\d+) ", part))) for part in decoded]
    assert [len(pages) for pages in found] == [24, 3, 3]
    assert set.union(*found) == set(range(30))
    for part, content in zip(parts, decoded, strict=True):
        ends = made.tokenizer.decode(part[part != 0].tolist())  # the end of a document has no bytes
        assert int(made.bytes_of_token[part].sum()) == len(ends.encode())
        assert "naïve" in content


def test_bits_per_byte_are_those_of_each_token_once_in_windows_over_all(example, text):
    language = example("language")
    made, seen = text[1], []

    class Uniform(nn.Linear):
        def forward(self, input_ids):
            seen.append(input_ids)
            logits = torch.zeros(*input_ids.shape, language.VOCABULARY)
            return type("Output", (), {"logits": logits})

    sizes = made.bytes_of_token
    everywhere = language.spaced_windows(made.train, 10_000)
    bits = language.bits_per_byte(Uniform(1, 1), everywhere, sizes)
    windows = (len(made.train) - 1) // language.CONTEXT
    predicted = made.train[1 : 1 + windows * language.CONTEXT]
    assert windows > 1
    assert bits == pytest.approx(12 * len(predicted) / int(sizes[predicted].sum()), rel=1e-6)
    seen.clear()
    tokens = made.train[: 7 * language.CONTEXT + 1]
    language.bits_per_byte(Uniform(1, 1), language.spaced_windows(tokens, 3), sizes)
    assert torch.equal(torch.cat(seen), tokens[:-1].view(7, -1)[[0, 3, 6]])


@pytest.mark.slow
def test_all_arms_see_the_same_batches(example, text, monkeypatch, tmp_path):
    language, trial = example("language"), example("runner").Trial
    docs, seen = text[0], {}

    def forward(arm):
        def record(module, args, kwargs):
            seen[arm].append(kwargs["input_ids"])

        return record

    def one_step(trial, model, loss, *settings):
        model.register_forward_pre_hook(forward(trial.arm), with_kwargs=True)
        seen[trial.arm] = []
        loss()
        return {"curve": [], "valid": 0.0, "seconds": 0.0}

    monkeypatch.setattr(language, "train", one_step)
    monkeypatch.setattr(language, "TEST", 1)
    for arm in ("gelu", "grkan", "swiglu"):
        torch.manual_seed(5)
        options = Namespace(docs=docs, compile=False, generate=0)
        path = tmp_path / "x.ckpt"
        language.run(options, trial("python3-doc", arm, 1e-3, 5, 1, torch.device("cpu"), path))
    assert torch.equal(seen["gelu"][0], seen["grkan"][0])
    assert torch.equal(seen["gelu"][0], seen["swiglu"][0])
