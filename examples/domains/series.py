"""Series: GR-KAN in the PatchTST of transformers, to classify series and to forecast one.

    pip install "kolmogorov-arnold-transformer[domains]"
    python examples/domains/series.py --task ItalyPowerDemand --arm gelu grkan --seed 1 --steps 100
    python examples/domains/series.py                                              # all of it
    python examples/domains/series.py --table                                 # of what is done

Body: PatchTSTForClassification and PatchTSTForPrediction (Nie et al., A Time Series is Worth 64
Words, ICLR 2023), 3 blocks of width 64; only the MLP of each block is exchanged (make_model). A
series is cut into about 24 patches, each overlapping half of the next. Channels are joined: a patch
has the values of all of them, so that the cost does not grow with their number, and attention sees
how they go together. (PatchTST keeps them apart, which suits long forecasts of many channels.)

Classification: the nine sets that aeon carries, of the UCR and UEA archives and TSML, with the
archive's own split. A fifth of the training series, stratified and drawn by the seed, is held out
to choose the rate and the weights. Each channel is standardized by mean and deviation over the
other training series. Series of unequal length (JapaneseVowels, PickupGestureWiimoteZ) are
resampled, linearly, to the longest training series. UnitTest, a cut of another set, is left out.

Forecast: the weekly CO2 of Mauna Loa, 1958 to 2001, of statsmodels; 52 weeks after 104. Missing
weeks are interpolated. The first 70 % of the weeks train, the next 10 % validate, the last 20 %
test; a window belongs to the part in which all of its forecast lies.

Error: 1 - accuracy; or the RMSE of the forecasts over that of the seasonal naive ones, which repeat
the value of 52 weeks before:  sqrt(sum (y_t - f_t)^2 / sum (y_t - y_(t - 52))^2), the sums over all
windows and weeks. What is validated is finer where there are few series, 8 to 54: the Brier score,
the mean of |p - e|^2, p the probabilities of the classes and e the one-hot class. It is rounded to
3 digits: of weights that are equal by it, the last are kept.

The baseline is rocket: aeon's MiniRocket and a ridge regression to e, p its prediction. For the
forecast it is a ridge regression on the window less its last value (NLinear of Zeng et al., 2023).
Its "rates" are three penalties.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from extra import needed
from torch import Tensor, nn
from torch.nn import functional

with needed():
    import numpy as np
    from layers import ARMS, mlp
    from runner import Domain, Trial
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from statsmodels.datasets import co2
    from training import train
    from transformers import PatchTSTConfig, PatchTSTForClassification, PatchTSTForPrediction

COLLECTIONS = (
    "ACSF1", "ArrowHead", "BasicMotions", "Covid3Month_disc", "GunPoint", "ItalyPowerDemand",
    "JapaneseVowels", "OSULeaf", "PickupGestureWiimoteZ",
)  # fmt: skip
FORECAST = "forecast-co2"
WIDTH, HIDDEN, BLOCKS, HEADS, BATCH = 64, 192, 3, 4, 32
PATCHES = 24
SEASON, CONTEXT, HORIZON = 52, 104, 52
DOMAIN = Domain(
    doc=__doc__,
    name="series",
    tasks=[*COLLECTIONS, FORECAST],
    rates=dict.fromkeys(ARMS, (5e-4, 2e-3, 8e-3)) | {"rocket": (1.0, 100.0, 10_000.0)},
    steps=400,
)


class Split(NamedTuple):
    """Series (n, channels, length), and of each its class (n,) or its next values (n, horizon)."""

    series: Tensor
    target: Tensor


@dataclass
class Data:
    """The splits of a task, and the number of classes, if it is classification."""

    train: Split
    valid: Split
    test: Split
    classes: int | None


def main() -> None:
    """Makes the runs that the CSV file lacks, and prints the tables."""
    DOMAIN.main(DOMAIN.parser().parse_args(), run)


def run(trial: Trial) -> tuple[nn.Module | None, dict[str, Any]]:
    """One run of an arm: the model, and its errors."""
    data = forecasts() if trial.task == FORECAST else collection(trial.task, trial.seed)
    if trial.arm == "rocket":
        return None, ridge(trial, data)
    model = make_model(trial.arm, data).to(trial.device)
    series, target = (part.to(trial.device) for part in data.train)

    def loss() -> Tensor:
        chosen = torch.randint(len(target), (BATCH,)).to(trial.device)
        output = forward(model, series[chosen])
        if data.classes:
            return functional.cross_entropy(output, target[chosen])
        return functional.mse_loss(output, target[chosen])

    def errors(rows: Split) -> tuple[float, float]:
        return measure(predict(model, rows.series, trial.device), rows)

    row = train(trial, model, loss, lambda: errors(data.valid)[0], 1e-4, max_norm=1.0)
    return model, row | {"test": errors(data.test)[1]}


def make_model(arm: str, data: Data) -> nn.Module:
    """A PatchTST whose MLPs are those of an arm, for series as those of the data."""
    channels, length = data.train.series.shape[1:]
    stride = channels * max(1, length // PATCHES)
    config = PatchTSTConfig(
        context_length=channels * length, patch_length=2 * stride, patch_stride=stride,
        num_hidden_layers=BLOCKS, d_model=WIDTH, ffn_dim=HIDDEN, num_attention_heads=HEADS,
        attention_dropout=0.1, num_targets=data.classes or 1, prediction_length=HORIZON,
        scaling=None if data.classes else "std",  # a forecast continues the level of its window
    )  # fmt: skip
    model = (PatchTSTForClassification if data.classes else PatchTSTForPrediction)(config)
    for layer in model.model.encoder.layers:
        layer.ff = mlp(arm, WIDTH, HIDDEN)
    return model


def forward(model: nn.Module, series: Tensor) -> Tensor:
    """Logits (n, classes), or the forecast (n, horizon), of series (n, channels, length).

    The channels of a time stand one after another in the one channel that PatchTST gets.
    """
    output = model(past_values=series.transpose(1, 2).flatten(1)[..., None])
    if isinstance(model, PatchTSTForClassification):
        return output.prediction_logits
    return output.prediction_outputs[..., 0]


@torch.no_grad()
def predict(model: nn.Module, series: Tensor, device: torch.device) -> Tensor:
    """Probabilities (n, classes), or the forecast (n, horizon)."""
    output = torch.cat([forward(model, part.to(device)).cpu() for part in series.split(256)])
    return output.softmax(1) if isinstance(model, PatchTSTForClassification) else output


def measure(output: Tensor, rows: Split) -> tuple[float, float]:
    """What is validated and what is tested, of probabilities or a forecast."""
    if rows.target.is_floating_point():
        naive = rows.series[:, 0, -SEASON:][:, :HORIZON]
        ratio = ((output - rows.target).norm() / (naive - rows.target).norm()).item()
        return ratio, ratio
    hot = functional.one_hot(rows.target, output.shape[1])
    wrong = (output.argmax(1) != rows.target).float().mean()
    brier = (output - hot).square().sum(1).mean().item()
    return round(brier, 3), wrong.item()


def ridge(trial: Trial, data: Data) -> dict[str, Any]:
    """The errors of a ridge regression, on features of MiniRocket or on the lags."""
    start = time.perf_counter()
    parts = data.train, data.valid, data.test
    if data.classes:
        with needed():
            from aeon.transformations.collection.convolution_based import MiniRocket
        threads = torch.get_num_threads()
        rocket = MiniRocket(random_state=trial.seed).fit(data.train.series.numpy())
        features = [rocket.transform(part.series.numpy()).astype(np.float64) for part in parts]
        torch.set_num_threads(threads)  # numba sets OpenMP's number, which is torch's too
        offsets = [torch.zeros(len(part.target), 1) for part in parts]
        goal = functional.one_hot(data.train.target, data.classes)
    else:
        offsets = [part.series[:, 0, -1:] for part in parts]
        pairs = zip(parts, offsets, strict=True)
        features = [(part.series[:, 0] - last).double().numpy() for part, last in pairs]
        goal = data.train.target - offsets[0]
    model = make_pipeline(StandardScaler(), Ridge(alpha=trial.rate)).fit(features[0], goal)
    predicted = [torch.from_numpy(model.predict(each)).float() for each in features[1:]]
    valid, _ = measure(predicted[0] + offsets[1], data.valid)
    _, test = measure(predicted[1] + offsets[2], data.test)
    return {"valid": valid, "test": test, "seconds": time.perf_counter() - start}


def collection(name: str, seed: int) -> Data:
    """A set of aeon's with its own test series; the seed draws the training series to validate."""
    (x, y), (x_test, y_test) = (read_collection(name, split) for split in ("train", "test"))
    names, codes = np.unique(y, return_inverse=True)
    kept, held = train_test_split(
        np.arange(len(y)), test_size=0.2, stratify=codes, random_state=seed
    )
    length = max(each.shape[1] for each in x)
    series, tests = resample(x, length), resample(x_test, length)
    mean = series[kept].mean((0, 2), keepdim=True)
    deviation = series[kept].std((0, 2), keepdim=True)
    rows = Split((series - mean) / deviation, torch.from_numpy(codes))
    test = Split((tests - mean) / deviation, torch.from_numpy(np.searchsorted(names, y_test)))
    train_rows, valid_rows = (Split(*(part[i] for part in rows)) for i in (kept, held))
    return Data(train_rows, valid_rows, test, len(names))


def resample(series: list[np.ndarray], length: int) -> Tensor:
    """Series (channels, length of its own) by linear interpolation: (n, channels, length)."""
    tensors = (torch.from_numpy(each).float()[None] for each in series)
    made = [functional.interpolate(x, length, mode="linear", align_corners=True) for x in tensors]
    return torch.cat(made)


@cache
def read_collection(name: str, split: str) -> tuple[list[np.ndarray], np.ndarray]:
    """The series (channels, length) and the classes of a split, from the files in the package."""
    with needed():
        from aeon.datasets import load_classification
    x, y = load_classification(name, split=split)
    return list(x), y


def forecasts() -> Data:
    """The windows of the CO2 series, split by time and standardized by the weeks of training."""
    weeks = torch.from_numpy(read_weeks()).float()
    first, second = int(0.7 * len(weeks)), int(0.8 * len(weeks))
    weeks = (weeks - weeks[:first].mean()) / weeks[:first].std()
    parts = weeks[:first], weeks[first - CONTEXT : second], weeks[second - CONTEXT :]
    windows = (part.unfold(0, CONTEXT + HORIZON, 1) for part in parts)
    return Data(*(Split(w[:, None, :CONTEXT], w[:, CONTEXT:]) for w in windows), None)


@cache
def read_weeks() -> np.ndarray:
    """CO2 in parts per million, week by week."""
    return co2.load_pandas().data["co2"].interpolate().to_numpy(np.float64, copy=True)


if __name__ == "__main__":
    main()
