"""Code written for the authors' package runs on this library."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn

import kat
import kat.compat


def test_the_names_are_found_in_the_package_and_in_its_modules():
    from kat_rational import KAT_Group, KAT_Group2D
    from kat_rational.kat_1dgroup_triton import KAT_Group as from_module
    from kat_rational.rational_triton import RationalTriton1DGroup
    from rational_kat_cu.kat_rational import KAT_Group as in_a_checkout
    from rational_kat_cu.kat_rational.rational_triton2d import RationalTriton2D

    assert KAT_Group is from_module is in_a_checkout is kat.compat.KAT_Group
    assert issubclass(KAT_Group2D, nn.Module)
    assert RationalTriton1DGroup.apply
    assert RationalTriton2D.apply
    for package in ("kat_rational", "rational_kat_cu.kat_rational"):
        for name in (package, f"{package}.rational_triton"):
            assert importlib.util.find_spec(name).name == name


@pytest.mark.parametrize("mode", kat.compat.MODES)
def test_a_layer_has_the_authors_state_dict_and_computes_the_function(mode):
    layer = kat.compat.KAT_Group(num_groups=4, mode=mode, device="cuda")
    shapes = {name: tuple(value.shape) for name, value in layer.state_dict().items()}
    assert shapes == {"weight_numerator": (1, 6), "weight_denominator": (4, 4)}
    assert layer.order == (5, 4)
    x = torch.linspace(-2, 2, 40).view(5, 8)
    function = (
        {
            "identity": lambda x: x,
            "leaky_relu": nn.functional.leaky_relu,
            "gelu_old": nn.functional.gelu,
            "swish": nn.functional.silu,
        }.get(mode)
        or getattr(torch, mode, None)
        or getattr(nn.functional, mode)
    )
    assert torch.allclose(layer(x), function(x), atol=0.05)
    layer.initialize("identity")
    assert torch.equal(layer(x), x)


def test_channels_of_images_stand_second():
    flat, images = kat.compat.KAT_Group(2, "gelu"), kat.compat.KAT_Group2D(2, "gelu")
    with torch.no_grad():
        flat.weight_denominator[0] += 0.3
    images.load_state_dict(flat.state_dict())
    x = torch.randn(2, 4, 3, 5)
    expected = flat(x.movedim(1, -1)).movedim(-1, 1)
    assert torch.equal(images(x), expected)
    applied = kat.compat.RationalTriton2D.apply(
        x, images.weight_numerator.repeat(2, 1), images.weight_denominator, 2
    )
    assert torch.equal(applied, expected)


@pytest.mark.parametrize(
    "make",
    [lambda: kat.compat.KAT_Group_Torch(8), lambda: kat.compat.KAT_Group(8, device="cpu")],
)
def test_classes_whose_function_is_another_one_in_the_authors_cpu_code_say_so(make):
    """There Q = 1 + sum |b_j| x^j, with the sign of x: by 0.70 another function for their GELU."""
    with pytest.warns(UserWarning, match="GPU kernels"):
        layer = make()
    a = [-0.00153969, 0.51692871, 0.44075827, 0.0972553, -0.00884418, -0.00378675]
    b = [-0.14171056, -0.06481231, -0.0444695, 0.01283776]
    layer.weight_numerator.data = torch.tensor([a])
    layer.weight_denominator.data = torch.tensor([b]).repeat(8, 1)
    x = torch.linspace(-6, 6, 601)
    p = sum(value * x**power for power, value in enumerate(a))
    on_gpu, on_cpu = (1 + sum(abs(v) * z**j for j, v in enumerate(b, 1)) for z in (x.abs(), x))
    computed = layer(x[:, None].repeat(1, 8))[:, 0]
    torch.testing.assert_close(computed, p / on_gpu, rtol=1e-5, atol=1e-6)
    assert (computed - p / on_cpu).abs().max().item() == pytest.approx(0.70, abs=0.005)


SCRIPT = """
    import sys
    from kat_rational import KAT_Group
    import helper

    print(type(KAT_Group(mode="swish")).__module__, __name__, helper.X, sys.argv[1:])
"""


@pytest.mark.slow
def test_a_script_runs_unchanged(tmp_path):
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    (tmp_path / "helper.py").write_text("X = 7")
    command = [sys.executable, "-m", "kat.compat"]
    run = {"capture_output": True, "text": True, "check": False}
    for how in ([str(tmp_path / "script.py")], ["-m", "script"]):
        result = subprocess.run([*command, *how, "--a", "b"], cwd=tmp_path, **run)
        assert result.stdout.split("\n")[0] == "kat.compat __main__ 7 ['--a', 'b']", result.stderr


PACKAGE_OF_THE_AUTHORS = ("kat_rational", "rational_kat_cu/kat_rational")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("installed", "first"),
    [*zip(PACKAGE_OF_THE_AUTHORS, ("kat.compat", "the package"), strict=True)],
)
def test_the_authors_package_is_used_where_it_is_installed(installed, first, tmp_path):
    file = tmp_path / installed / "__init__.py"
    file.parent.mkdir(parents=True)
    file.write_text("KAT_Group = 7")
    name = installed.replace("/", ".")
    (other,) = (each.replace("/", ".") for each in PACKAGE_OF_THE_AUTHORS if each != installed)
    imports = ["kat.compat", name] if first == "kat.compat" else [name, "kat.compat"]
    code = f"""
import {imports[0]}, {imports[1]}
from {name} import KAT_Group
print(KAT_Group)
from {other} import KAT_Group
print(KAT_Group.__module__)
"""
    run = {"capture_output": True, "text": True, "check": False, "cwd": tmp_path}
    result = subprocess.run([sys.executable, "-c", code], **run)
    assert result.stdout == "7\nkat.compat\n", result.stderr
    assert result.stderr == f"kat.compat: {name} is installed ({file}) and is used, not kat\n"
