"""The published packages beside kat.compat, and their own tests on it.

``KAT_PEERS`` names a folder with checkouts: kat and rational_kat_cu of github.com/Adamdad, and
rational_activations of github.com/ml-research.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.overrides import TorchFunctionMode

import kat.compat  # noqa: F401 (serves the packages)


def _peer(name):
    folder = Path(os.environ.get("KAT_PEERS", "")) / name
    if "KAT_PEERS" not in os.environ or not folder.is_dir():
        pytest.skip(f"KAT_PEERS names no folder with a checkout of {name}")
    return folder


COMPARE = """
import importlib.util, sys
import torch
import kat.compat

def same(theirs, own, x):
    assert sorted(theirs.state_dict()) == sorted(own.state_dict())
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    own.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(own.eval()(x), theirs.eval()(x), rtol=1e-5, atol=1e-6)
"""
KATRANSFORMER = """
from kat.compat import katransformer as ours

spec = importlib.util.spec_from_file_location("authors", f"{sys.argv[1]}/katransformer.py")
authors = sys.modules["authors"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(authors)
size = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 4}
for more in (
    {},
    {"weight_init": "kan_mimetic", "act_init": "swish", "fix_init": True},
    {"global_pool": "avg", "class_token": False, "qk_norm": True, "init_values": 1e-5},
    {"global_pool": "map", "num_classes": 10, "weight_init": "jax"},
    {"reg_tokens": 4, "no_embed_class": True, "pre_norm": True, "dynamic_img_size": True},
):
    model = authors.KATVisionTransformer(**size, **more)
    same(model, ours.KATVisionTransformer(**size, **more), torch.randn(2, 3, 32, 32))
for name, arguments in (("KAN", (64, 128)), ("Attention", (64, 4, True)), ("LayerScale", (64,))):
    own = getattr(ours, name)(*arguments)
    same(getattr(authors, name)(*arguments), own, torch.randn(2, 5, 64))
"""
RATIONAL = """
from kat.compat.rational import Rational

sys.path.insert(0, sys.argv[1])
import rational.torch

assert rational.__file__.startswith(sys.argv[1])
for version in "AB":
    theirs = rational.torch.Rational("gelu", version=version, cuda=False)
    x = torch.linspace(-6, 6, 101).view(1, 101)
    same(theirs, Rational("gelu", version=version, cuda=False), x)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "code"), [("kat", KATRANSFORMER), ("rational_activations", RATIONAL)]
)
def test_keys_and_outputs_equal_the_authors(name, code):
    command = [sys.executable, "-c", COMPARE + code, str(_peer(name))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class _OnCPU(TorchFunctionMode):
    """Takes the CPU for the GPU, since the packages' tests want one."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if str(kwargs.get("device")) == "cuda":
            kwargs["device"] = "cpu"
        args = tuple("cpu" if isinstance(each, str) else each for each in args)
        return args[0] if function is torch.Tensor.cuda else function(*args, **kwargs)


def _load(path):
    """The names of a file of tests, without what it does with versions C and D of Rational."""
    source = re.sub(r"(?m)^rational[CD].*(\n +.*)?$", "", path.read_text())
    names = {}
    exec(source, names)
    return names


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "file", "part", "count"),
    [
        ("rational_kat_cu", "tests/test_triton.py", "test_backward", 1),
        ("rational_activations", "tests/tests_torch/test_backward.py", "test_backward", 4),
        ("rational_activations", "tests/tests_torch/test_cpu.py", "test_rational", 2),
        ("rational_activations", "tests/tests_torch/test_gpu.py", "test_rational", 2),
        ("rational_activations", "tests/tests_torch/test_conversion.py", "test_cpu_equal", 2),
    ],
)
def test_the_packages_own_tests(name, file, part, count):
    """Of rational_activations those of forms A and B."""
    with _OnCPU():
        names = _load(_peer(name) / file)
        tests = [each for each in names if part in each and not {"C", "D"} & {*each}]
        for each in tests:
            names[each]()
    assert len(tests) == count
