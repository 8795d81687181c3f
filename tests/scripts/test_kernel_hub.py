"""The package for Hugging Face's ``kernels``: the same bits as kat, where kat is not installed."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from packaging.requirements import Requirement

from tests.environment import link, run_in

pytestmark = pytest.mark.slow

_SCRIPT = """
import importlib.util, json, sys
from pathlib import Path
import torch

loader, folder, impl, target = sys.argv[1:]
if loader == "kat":
    import kat as package
else:
    assert importlib.util.find_spec("kat") is None
    if loader == "kernels":
        import kernels
        package = kernels.get_local_kernel(Path(folder))
    else:  # as kernels does it
        name = json.loads((Path(folder) / "metadata.json").read_text())["id"]
        spec = importlib.util.spec_from_file_location(name, Path(folder) / "__init__.py")
        sys.modules[name] = package = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(package)
results = []
for dtype in (torch.float32, torch.bfloat16):
    for form in "AB":
        torch.manual_seed(0)
        x, a, b = torch.randn(3, 5, 48), torch.randn(1, 6), torch.randn(8, 4)
        inputs = [x.to(dtype).requires_grad_(), a.requires_grad_(), b.requires_grad_()]
        y = package.rational(*inputs, form=form, impl=None if impl == "-" else impl)
        results += [y.detach(), *torch.autograd.grad(y.square().sum(), inputs)]
torch.save(results, target)
"""


@pytest.fixture(scope="module")
def package(script, tmp_path_factory):
    """The folder that the script makes."""
    folder = tmp_path_factory.mktemp("hub") / "kernel"
    script("kernel_hub").make_package(folder)
    return folder


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Return an environment with the packages that the package may import, without kat."""
    names = [name for name in ("torch", "numpy", "triton", "kernels") if find_spec(name)]
    return link(tmp_path_factory.mktemp("environment"), map(Requirement, names))


@pytest.fixture
def results_of(environment, tmp_path):
    """y, dx, da and db of each form and dtype, from a process of its own."""

    def run(loader, folder, impl, **variables):
        target = tmp_path / f"{loader}.pt"
        arguments = (loader, str(folder), impl, str(target))
        variables |= {"OMP_NUM_THREADS": "1"}
        done = run_in(environment, _SCRIPT, *arguments, project=loader == "kat", **variables)
        assert done.returncode == 0, done.stderr
        return torch.load(target)

    return run


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.release
def test_the_package_gives_the_same_bits(device, package, results_of):
    """On a GPU by Triton's interpreter; loaded by ``kernels`` where that is installed."""
    impl, variables = "-", {}
    if device == "cuda":
        pytest.importorskip("triton", reason="Triton is not installed")
        impl, variables = "triton", {"TRITON_INTERPRET": "1"}
    expected = results_of("kat", "", impl, **variables)
    build = package / "build" / f"torch-{device}"
    loaders = {"importlib": build, "kernels": package if device == "cpu" else build}
    for loader, folder in loaders.items():
        if loader == "importlib" or find_spec("kernels"):
            found = results_of(loader, folder, impl, **variables)
            assert len(found) == len(expected) == 16
            assert all(map(torch.equal, found, expected))
            assert all(each.isfinite().all() for each in found)


@pytest.mark.release
def test_beside_kat_in_one_process_and_its_layer_has_forward_alone(package):
    init = package / "build" / "torch-cpu" / "__init__.py"
    code = f"""
import importlib.util, sys, torch, kat
spec = importlib.util.spec_from_file_location("hub", {str(init)!r})
sys.modules["hub"] = hub = importlib.util.module_from_spec(spec)
spec.loader.exec_module(hub)
layer = kat.GroupRational(4)
x = torch.randn(2, 8)
expected = layer(x)
own = hub.layers.GroupRational
assert own.__init__ is torch.nn.Module.__init__
members = set(dir(own)) - set(dir(torch.nn.Module))
assert members == {{"can_torch_compile", "has_backward"}}, members
assert torch.equal(own.forward(layer, x), expected)
compiled = torch.compile(lambda x: own.forward(layer, x), backend="eager", fullgraph=True)
assert torch.equal(compiled(x), expected)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_names_of_kat_that_are_not_rewritten_are_an_error(script):
    for text in ("import kat\n", "from kat import rational\n", 'NAME = "kat.ops.x"\n'):
        with pytest.raises(SystemExit, match=r"ops/api\.py, line 1"):
            script("kernel_hub").independent(text, "ops/api.py", "n")
