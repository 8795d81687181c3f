"""The core needs only torch; a missing package of the rest is named in one line."""

from __future__ import annotations

import ast
import compileall
import importlib
import json
import re
import shutil
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from kat.cli.main import COMMANDS
from kat.extras import EXTRA_OF_PACKAGE, MissingPackage, is_installed, needed_by
from tests.cli.commands import ALL_COMMANDS
from tests.environment import EXTRAS, ROOT, make_environment, requirements, run_in
from tests.marks import most_at_night

PACKAGE = ROOT / "kat"
PIP = 'pip install "kolmogorov-arnold-transformer[{}]"'

JOBS = """
import json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
import kat
from kat.models.kanify import kanify_like
from kat.nn import gain, preset_names
from kat.nn import read_coefficient_history, write_coefficient_history, LayerHistory

def digest(*tensors):
    return [float.hex(v) for t in tensors for v in t.detach().double().flatten().tolist()]

found = {}
torch.manual_seed(0)
x = torch.randn(6, 16)

act = kat.GroupRational(8, init="gelu")
act(x.requires_grad_()).square().sum().backward()
found["rational"] = digest(act(x), x.grad, *(p.grad for p in act.parameters()))
a, b = act.weight_numerator, act.weight_denominator
found["gains"] = [gain(kat.GroupRational(1, init=n).functions) for n in preset_names()]
mlp = kat.GRKANMlp(16, 32)
layer = kat.GRKANLinear(16, 8)
optimizer = torch.optim.AdamW(kat.param_groups(torch.nn.Sequential(layer, mlp), lr=1e-2))
layer(x).square().sum().backward()
optimizer.step()
found["step"] = digest(mlp(x), *layer.parameters())

def plain():
    torch.manual_seed(1)
    return torch.nn.TransformerEncoderLayer(16, 2, 32, 0.0, "gelu", batch_first=True).eval()

model, batch = plain(), torch.randn(2, 5, 16)
plan = kat.kanify(model)
plan.save("plan.json")
found["kanified"] = [str(plan), *digest(model(batch), *model.parameters())]
other = plain()
kanify_like(other, "plan.json").model.load_state_dict(model.state_dict())
found["like"] = digest(other(batch)) == digest(model(batch))

history = LayerHistory("A", torch.tensor([3]), a[None].detach().float(), b[None].detach().float())
write_coefficient_history({"act": history}, Path("history.csv"))
found["history"] = digest(read_coefficient_history(Path("history.csv"))["act"].numerator)

import kat.compat
from kat_rational import KAT_Group
found["compat"] = digest(KAT_Group(mode="gelu")(x[:, None].detach()))

if "numpy" not in sys.modules:
    refused = {
        "degree": lambda: kat.kanify(plain(), config=kat.KanifyConfig(degree=(3, 2))),
        "calibration": lambda: kat.kanify(plain(), calibration=[batch]),
        "models": lambda: kat.models.create_model,
        "export": lambda: __import__("kat.deploy").deploy.export_model,
        "plots": lambda: __import__("kat.analysis").analysis.plot_activations,
        "train": lambda: __import__("kat.training").training.train,
    }
    lines = {}
    for name, job in refused.items():
        try:
            job()
        except ImportError as error:
            lines[name] = str(error)
    print(json.dumps(lines))
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def core(tmp_path_factory):
    """An environment with torch and its dependencies alone."""
    return make_environment(tmp_path_factory.mktemp("core"))


@pytest.mark.slow
def test_the_core_does_its_jobs_with_torch_alone(core, tmp_path):
    """With the results of the whole environment, bit by bit."""
    done = run_in(core, JOBS)
    assert (done.returncode, done.stderr) == (0, "")
    lines, alone = map(json.loads, done.stdout.splitlines())
    everything = make_environment(tmp_path, "plot")
    whole = run_in(everything, JOBS)
    assert whole.returncode == 0, whole.stderr
    assert alone == json.loads(whole.stdout)  # one line: numpy is there
    assert alone["like"]
    extras = {"degree": "fit", "calibration": "fit", "models": "vision", "export": "export"}
    extras |= {"plots": "plot", "train": "train"}
    for name, extra in extras.items():
        assert re.fullmatch(f".*{re.escape(PIP.format(extra))}", lines[name]), lines[name]


@pytest.mark.slow
def test_importing_the_core_imports_nothing_beside_torch(core):
    """Nor the compiler, which torch imports when it is used."""
    code = """
import sys, torch
before = set(sys.modules)
import kat, kat.compat
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(sorted(new - set(sys.stdlib_module_names)), "torch._dynamo" in sys.modules)
"""
    done = run_in(core, code)
    assert (done.stdout, done.stderr) == ("['kat'] False\n", "")


@pytest.mark.slow
def test_a_timm_that_cannot_be_imported_is_no_obstacle(core, tmp_path):
    (tmp_path / "timm.py").write_text("raise RuntimeError('operator nms does not exist')\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import kat; kat.kanify"
    done = run_in(core, code)
    assert done.returncode == 0
    assert "not registered with timm: operator nms does not exist" in done.stderr


REGISTERED = """
import sys
{first}
assert ("timm" in sys.modules) == {imported}
kat.GRKANMlp(64, 256)
import timm
finders = [finder for finder in sys.meta_path if type(finder).__module__ == "kat.import_hook"]
print(len(timm.list_models("kat_*")), type(timm.create_model("kat_micro")).__name__, len(finders))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("first", "imported"), most_at_night([
    ("import kat", False), ("import importlib.util, kat; importlib.util.find_spec('timm')", False),
    ("import timm, kat", True), ("import kat.models.kat", True), ("import kat; kat.adapt", True),
    ("import kat, timm.models.vision_transformer", True), ("import kat.training", False),
], [("import kat", False)]))  # fmt: skip
def test_the_models_are_registered_whichever_comes_first(first, imported):
    """``import kat`` alone does not import timm, and leaves no finder of modules behind."""
    code = REGISTERED.format(first=first, imported=imported)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("30 KAT 1\n", "")


@pytest.mark.slow
def test_an_import_that_fails_registers_when_it_succeeds(tmp_path):
    (tmp_path / "late.py").write_text("import os\nif 'GO' not in os.environ: raise OSError(1)\n")
    (tmp_path / "follows.py").write_text("print('follows')\n")
    code = """
import os, sys, kat.import_hook
sys.path.append(sys.argv[1])
kat.import_hook.import_with("follows", "late")
try:
    import late
except OSError:
    os.environ["GO"] = "1"
    import late, follows
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("follows\n", "")


def test_a_part_of_a_package_that_is_missing_is_no_missing_package():
    with (
        pytest.raises(ModuleNotFoundError, match=r"timm\.nothing") as error,
        needed_by("kat train"),
    ):
        import timm.nothing  # noqa: F401
    assert not isinstance(error.value, MissingPackage)


def test_a_folder_of_that_name_is_no_package(tmp_path, monkeypatch):
    (tmp_path / "of_this_name").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(EXTRA_OF_PACKAGE, "of_this_name", "fit")
    assert is_installed("json")
    assert not is_installed("of_this_name")
    with pytest.raises(MissingPackage, match="x needs the package of_this_name"), needed_by("x"):
        importlib.import_module("of_this_name.part")


@pytest.mark.slow
def test_commands_name_what_they_need_in_one_line(core):
    lines = [["--help"], ["plot", "--help"], *map(str.split, COMMANDS)]
    done = run_in(core, ALL_COMMANDS, json.dumps(lines))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["--help"][0] == found["plot --help"][0] == 0
    for name, extra in COMMANDS.items():
        install = f"kat {name} needs the package .*{re.escape(PIP.format(extra))}"
        code, out, err, _ = found[name]
        assert (code, out) == (2, "")
        assert re.fullmatch(f"kat: {install if extra else '.* required: PROJECT.*'}\n", err)


@pytest.mark.slow
@pytest.mark.parametrize(
    "extra", most_at_night([None, "fit", "vision", "train", "plot", "export"], [None, "train"])
)
def test_an_extra_is_enough_for_its_commands(extra, tmp_path):
    """For their help, which builds the whole parser, and for all that they import to work."""
    names = [name for name, needed in COMMANDS.items() if needed == extra]
    environment = make_environment(tmp_path, extra)
    done = run_in(environment, ALL_COMMANDS, json.dumps([[*n.split(), "--help"] for n in names]))
    assert done.returncode == 0, done.stderr
    for line, (code, out, err, _) in json.loads(done.stdout).items():
        assert (code, err) == (0, ""), line
        assert "--debug" in out, line
    folder = PACKAGE / "cli" / "commands"
    text = "\n".join((folder / f"{name.split()[0]}.py").read_text() for name in names)
    imports = re.findall(r"^ +(from kat.* import [^#(\n]*)(?:#.*torch)?$", text, re.M)
    done = run_in(environment, "\n".join(imports))
    assert done.returncode == 0, done.stderr


def test_the_extra_of_each_package_brings_it(monkeypatch):
    distributions = packages_distributions()
    brought = {extra: {canonicalize_name(r.name) for r in requirements(extra)} for extra in EXTRAS}
    for package, extra in EXTRA_OF_PACKAGE.items():
        names = {canonicalize_name(name) for name in distributions.get(package, [package])}
        if package == "pydantic_core":  # pydantic brings it
            names = {"pydantic"}
        assert names & brought[extra] or package in ("mlflow", "wandb", "alembic", "sqlalchemy")
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MissingPackage) as raised, needed_by("x"):
            raise ModuleNotFoundError(name=f"{package}.part")
        assert str(raised.value).endswith(PIP.format(extra))
        assert raised.value.name == package
        with pytest.raises(MissingPackage) as raised, needed_by("kat plot", "plot"):
            raise MissingPackage("y", package)
        part = extra in ("cli", "fit", "vision", "train")
        assert str(raised.value).startswith("kat plot needs" if part else "y needs")
        assert str(raised.value).endswith(PIP.format("plot" if part else extra))


NOT_OF_AN_EXTRA = {
    "triton": "torch brings it where there is a GPU",
    "torch": "the core",
    "kat": "this package",
    "kat_command": "this package",
    "monai": "kat.register_activations names it where the user has it",
}


def test_every_package_that_is_imported_belongs_to_an_extra():
    known = {*NOT_OF_AN_EXTRA, *EXTRA_OF_PACKAGE, *sys.stdlib_module_names, "__future__"}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Import(names=names):
                    found = {alias.name.partition(".")[0] for alias in names}
                case ast.ImportFrom(module=module, level=0):
                    found = {(module or "").partition(".")[0]}
                case _:
                    continue
            assert found <= known, path


def test_the_core_requires_torch_alone_and_all_and_dev_bring_every_extra():
    assert [requirement.name for requirement in requirements()] == ["torch"]
    users = set(EXTRAS) - {"dev", "dev-core", "docs", "examples", "release"}
    everything = {r.name for extra in users for r in requirements(extra)}
    assert {r.name for r in requirements("all")} == everything
    loggers = {r.name for r in requirements("loggers")} - {r.name for r in requirements("train")}
    assert everything - loggers <= {r.name for r in requirements("dev")}


@pytest.mark.parametrize("name", ["", ".models", ".data", ".training", ".analysis", ".deploy"])
def test_type_checkers_see_the_names_that_come_on_first_use(name):
    """In the only table and the only ``if`` of the package; every name is what its module has."""
    package = importlib.import_module(f"kat{name}")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = package.nothing
    tree = ast.parse(Path(package.__file__).read_text(encoding="utf-8"))
    (table,) = (ast.literal_eval(node) for node in ast.walk(tree) if isinstance(node, ast.Dict))
    (block,) = (node.body for node in tree.body if isinstance(node, ast.If))
    seen = {(node.module, alias.name) for node in block for alias in node.names}
    for module, names in table.items():
        source = importlib.import_module(module, package.__name__)
        for public in names.split():
            assert public in dir(package)
            assert getattr(package, public) is getattr(source, public)
            seen.remove((source.__name__, public))
    assert not seen


@pytest.mark.release
def test_the_library_works_without_its_sources(tmp_path):
    """As in a frozen application: every public name, from compiled files alone."""
    copy = shutil.copytree(PACKAGE, tmp_path / "kat", ignore=shutil.ignore_patterns("__pycache__"))
    assert compileall.compile_dir(copy, legacy=True, quiet=1)
    for path in copy.rglob("*.py"):
        path.unlink()
    code = """
import kat
assert kat.__file__.endswith(".pyc")
from kat.deploy import export_model
for package in (kat.models, kat.data, kat.training, kat.analysis, kat.deploy):
    for name in package.__all__:
        getattr(package, name)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


@pytest.mark.release
def test_models_that_are_registered_again_are_one_warning():
    code = (
        "import sys, kat.models\n"
        "for name in [name for name in sys.modules if name.startswith('kat.models')]:\n"
        "    del sys.modules[name]\n"
        "import kat.models"
    )
    command = [sys.executable, "-W", "always::UserWarning", "-c", code]
    errors = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert errors.count("Overwriting") == 1
