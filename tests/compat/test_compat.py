"""Code written for the authors' package runs on this library."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn

import kat
import kat.compat
from kat.compat import check
from kat.errors import InputError


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
    a = torch.tensor([-0.00153969, 0.51692871, 0.44075827, 0.0972553, -0.00884418, -0.00378675])
    b = torch.tensor([-0.14171056, -0.06481231, -0.0444695, 0.01283776])
    layer.weight_numerator.data[:], layer.weight_denominator.data[:] = a, b
    x = torch.linspace(-6, 6, 601)[:, None]
    powers = x ** torch.arange(6)
    computed = layer(x.repeat(1, 8))[:, 0]
    on_gpu = powers @ a / (1 + powers[:, 1:5].abs() @ b.abs())
    on_cpu = powers @ a / (1 + powers[:, 1:5] @ b.abs())
    torch.testing.assert_close(computed, on_gpu, rtol=1e-5, atol=1e-6)
    assert (computed - on_cpu).abs().max().item() == pytest.approx(0.70, abs=0.005)


def test_names_that_are_not_served_are_errors_that_list_the_others():
    import kat_rational
    import rational.torch

    with pytest.raises(ImportError, match=r"no KAT_Groups .* `from kat_rational import KAT_Group`"):
        from kat_rational import KAT_Groups  # noqa: F401
    with pytest.raises(ImportError, match="has GroupKAN, GroupKANLinear"):
        from ikan.ChebyKAN import ChebyKAN  # noqa: F401
    with pytest.raises(ModuleNotFoundError):
        import rational.keras
    with pytest.raises(InputError, match="version 'C'"):
        rational.torch.Rational(version="C")
    assert not hasattr(kat_rational, "__wrapped__")


PUBLIC = """
from kat_rational import KAT_Group; y = KAT_Group(mode="gelu", device="cuda", order=(5, 4))(x)
from kat_rational import KAT_Group as K; y = K(mode="gelu", num_groups=1, poly_order=(5, 4))(x)
from kat_rational import KAT_Group_Torch as K; y = K(8, "gelu", device=None, poly_order=(5, 4))(x)
from kat_rational import rational_1dgroup as r; y = r.apply(x, a, b, 8, 6, 4)
from kat_rational import rational_1dgroup as r; y = r.apply(x, a.view(-1), b.view(-1), 8)
from kat_rational import KAT_Group; y = KAT_Group(8).rational(x, a, b, 8)
import kat_rational; y = kat_rational.rational_fwd_optimized(x, a[0], b[0])
from kat_rational import KAT_Group as K; i = K().init_info()["gelu"]; y = f(x, *i.values())
from kat_rational.shared_den_kan import SharedDenKAN; y = SharedDenKAN(64)(x, b.repeat(8, 1))
from rational_kat import FlashKAT_Group; y = FlashKAT_Group(64, 1, 8, 6, 4, "gelu", "cuda")(x)
from rational_kat import FlashKAT_Group; y = FlashKAT_Group(64, 0, 64, 6, 4, mode="gelu")(x)
from rational_kat import FlashKAT_Group; y = FlashKAT_Group(64, 8, 1, poly_order=(5, 4))(x)
from rational.torch import Rational; y = Rational("gelu", degrees=(5, 4), cuda=False)(x)
from rational.torch import Rational; y = Rational(approx_func="gelu", version="B")(x)
from ikan.GroupKAN import GroupKANLinear as L; y = L(64, 3, act_mode="gelu", device="cuda").act(x)
from ikan import GroupKAN; y = GroupKAN([64, 128, 3], num_groups=4).layers[0][0](x)
""".strip().splitlines()


@pytest.mark.filterwarnings("ignore:kat.compat computes")
@pytest.mark.parametrize("code", PUBLIC)
def test_names_as_public_code_calls_them(code, tmp_path):
    """Each gives GELU; the check reads each as served."""
    gelu = kat.nn.preset("gelu")
    a, b = (torch.tensor([row]).repeat(8, 1) for row in (gelu.numerator, gelu.denominator))
    names = {"x": torch.linspace(-3, 3, 128).view(2, 64), "a": a, "b": b}
    names["f"] = lambda x, a, b: kat.rational(x, torch.tensor([a]), torch.tensor([b]))
    exec(code, names)
    assert torch.allclose(names["y"], nn.functional.gelu(names["x"]), atol=0.003)
    (tmp_path / "net.py").write_text(code)
    found = check.check(tmp_path)
    assert len(found) > 1
    assert not any(each.is_problem for each in found)


def test_a_layer_of_flashkat_keeps_its_names():
    from rational_kat import FlashKAT_Group

    layers = [FlashKAT_Group(64, 1, 8, mode=mode) for mode in ("swish", "tanh")]
    shapes = {name: tuple(value.shape) for name, value in layers[0].state_dict().items()}
    assert shapes == {"numerator_v": (1, 6), "denominator_v": (8, 4)}
    layers[1].load_state_dict(layers[0].state_dict())
    x = torch.randn(3, 64)
    assert torch.equal(layers[1](x), kat.compat.KAT_Group(8, "swish")(x))
    moved = []
    for layer in (layers[0], kat.compat.KAT_Group(8, "swish")):
        optimizer = torch.optim.SGD(kat.param_groups(layer, 0.5), lr=0.5)
        layer(x).square().sum().backward()
        optimizer.step()  # scaled by the slopes of the coefficients, whatever their names
        moved.append(layer(x))
    assert torch.equal(*moved)
    with pytest.raises(InputError, match="must be equal"):
        FlashKAT_Group(64, 4, 8)


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
        assert result.stdout.split("\n")[0] == "kat.compat.kat_rational __main__ 7 ['--a', 'b']", (
            result.stderr
        )
    result = subprocess.run([*command, "--check", "."], cwd=tmp_path, **run)
    assert result.returncode == 1
    assert "kat compat PROJECT" in result.stderr


PACKAGES = {"kat_rational": "rational_kat_cu.kat_rational"}
PACKAGES |= {other: name for name, other in PACKAGES.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", PACKAGES)
def test_the_authors_package_is_used_where_it_is_installed(name, tmp_path):
    file = tmp_path / name.replace(".", "/") / "__init__.py"
    file.parent.mkdir(parents=True)
    file.write_text("KAT_Group = 7")
    code = f"""
import kat.compat
from {name} import KAT_Group
print(KAT_Group)
from {PACKAGES[name]} import KAT_Group
print(KAT_Group.__module__)
"""
    run = {"capture_output": True, "text": True, "check": False, "cwd": tmp_path}
    result = subprocess.run([sys.executable, "-c", code], **run)
    assert result.stdout == "7\nkat.compat.kat_rational\n", result.stderr
    assert result.stderr.startswith(
        f"kat.compat: {name} is installed ({file}) and is used, not kat"
    )
    assert result.stderr.count("\n") == 1


@pytest.mark.release
def test_force_serves_kernels_though_there_are_copies(tmp_path):
    """In the folder of a script, and in a package; a folder in such a copy is not served alone."""
    files = {
        "kat_rational/__init__.py": "import a_missing_triton",
        "models/kat_rational/__init__.py": "from .kernels import triton",
        "models/kat_rational/kernels/triton.py": "import a_missing_triton",
        "models/__init__.py": "from .kat_rational import KAT_Group",
        "script.py": "from kat_rational import KAT_Group\nimport models\n"
        "print({KAT_Group, models.KAT_Group})",
        "other.py": "import models",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    run = {"capture_output": True, "text": True, "check": False, "cwd": tmp_path}
    done = subprocess.run([sys.executable, "-m", "kat.compat.force", "script.py"], **run)
    expected = "{<class 'kat.compat.kat_rational.KAT_Group'>}\n"
    assert (done.stdout, done.stderr) == (expected, "")
    done = subprocess.run([sys.executable, "-m", "kat.compat", "other.py"], **run)
    assert "No module named 'a_missing_triton'" in done.stderr
    assert "import kat.compat.force before it" in done.stderr
