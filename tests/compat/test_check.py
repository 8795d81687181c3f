"""``kat compat`` on projects in many shapes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kat.compat import check
from tests.cli.commands import refused, run

FILES = {
    "plain/train.py": (
        "from kat_rational import KAT_Group, KAT_Group2D\nKAT_Group(mode='gelu', num_groups=16)\n"
        "KAT_Group(8, bias=True)\n"
    ),
    "plain/later.py": (
        "def build():\n    import rational.torch as rt\n    return rt.Rational(version='C')\n"
    ),
    "plain/old.py": "print 'Python 2'\n",
    "plain/.venv/hidden.py": "import kat_rational\n",
    "plain/venv/lib/site-packages/kat/__init__.py": "import kat_rational\n",
    "vendored/net.py": (
        "import os, sys\n"
        "from third_party.rational_kat_cu.kat_rational import (  # the kernels\n"
        "    KAT_Group as Group,\n)  # ours now\n"
        "class Net:\n\tfrom .katransformer import KAN\n\tx = 'é'; import kat_rational\n"
        "from kat_rational import fit\n"
    ),
    "vendored/bom.py": "\ufefffrom kat_rational import KAT_Group\n",
    "copy/net.py": (
        "from models.kat_rational import KAT_Group\nimport katransformer, rational_kat\n"
        "from katransformer import KAN, create_kat_amp_model\n"
    ),
    "copy/models/kat_rational/__init__.py": "import kat_rational_cu\n",
    "copy/katransformer.py": (
        "from rational_kat.flash import FlashKAT_Group as F\nF(8, 1, 8, 6, 4)\n"
    ),
    "tried/net.py": (
        "try:\n    from kat_rational import fit\n"
        "except (ImportError, OSError): fit = None\nexcept ValueError: raise\n"
        "try:\n    from kat_rational import fit, KAT_Group\nexcept:\n    fit = KAT_Group = None\n"
        "try:\n    from kat_rational import gain\nexcept ImportError:\n    raise SystemExit\n"
        "try:\n    from kat_rational import gain\nexcept ValueError:\n    gain = 1\n"
        "try:\n    from kat_rational import KAT_Group\nexcept ImportError:\n    pass\n"
    ),
    "own/rational.py": "import models.kat_rational\n",
    "own/net.py": "from rational import Rational\n",
}


REPLACED = """\
import os, sys
from kat.compat.kat_rational import KAT_Group as Group  # ours now
class Net:
\tfrom kat.compat.katransformer import KAN
\tx = 'é'; import kat.compat.kat_rational as kat_rational
from kat_rational import fit
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, content in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.replace("\n", "\r\n").encode())
    return tmp_path


VERDICTS = {
    "plain": """\
later.py:2: import rational.torch as rt: served after `import kat.compat`
later.py:3: rt.Rational(...): not served: version 'C', but A and B
old.py:1: old.py: not read: Missing parentheses
train.py:1: from kat_rational import KAT_Group, KAT_Group2D: served after `import kat.compat`
train.py:2: KAT_Group(...): served
train.py:3: KAT_Group(...): not served: got an unexpected keyword argument 'bias'
""",
    "vendored": """\
bom.py:1: from kat_rational import KAT_Group: served after `import kat.compat`
net.py:2: from third_party.rational_kat_cu.kat_rational import KAT_Group as Group: served after \
--replace by `from kat.compat.kat_rational import KAT_Group as Group`
net.py:6: from .katransformer import KAN: served after --replace by `from \
kat.compat.katransformer import KAN`
net.py:7: import kat_rational: served after `import kat.compat`
net.py:8: from kat_rational import fit: not served: kat_rational has no fit in kat.compat
""",
    "copy": """\
katransformer.py:1: from rational_kat.flash import FlashKAT_Group as F: served after `import \
kat.compat`
katransformer.py:2: F(...): served
net.py:1: from models.kat_rational import KAT_Group: served after `import kat.compat.force`, since \
there is models/kat_rational/__init__.py
net.py:2: import katransformer, rational_kat: the project's own, katransformer.py
net.py:2: import katransformer, rational_kat: served after `import kat.compat`
net.py:3: from katransformer import KAN, create_kat_amp_model: the project's own, katransformer.py
""",
    "tried": """\
net.py:2: from kat_rational import fit: left to the `except` of its `try`: kat_rational has no fit
net.py:6: from kat_rational import fit, KAT_Group: left to the `except` of its `try`: kat_rational
net.py:10: from kat_rational import gain: not served: kat_rational has no gain
net.py:14: from kat_rational import gain: not served: kat_rational has no gain
net.py:18: from kat_rational import KAT_Group: served after `import kat.compat`
""",
    "own": """\
net.py:1: from rational import Rational: the project's own, rational.py
rational.py:1: import models.kat_rational: not served: write from kat.compat.kat_rational import
""",
}


@pytest.mark.parametrize("name", VERDICTS)
def test_imports_and_calls(name, project, monkeypatch):
    monkeypatch.chdir(project / name)
    found = [str(each) for each in check.check(Path())]
    for line, expected in zip(found, VERDICTS[name].splitlines(), strict=True):
        assert line.startswith(expected), line


def test_replace_shows_a_diff_and_writes_imports_alone(project, capsys):
    file = Path("vendored/net.py")
    assert run("compat", "vendored", "--replace") == 2
    assert "git" in capsys.readouterr().err
    assert b"third_party" in file.read_bytes()
    (project / ".git").mkdir()
    file.chmod(0o750)
    assert run("compat", "vendored", "--replace") == 1  # one name is not served
    assert (
        "\n+from kat.compat.kat_rational import KAT_Group as Group  # ours"
        in capsys.readouterr().out
    )
    assert file.read_bytes().decode() == REPLACED.replace("\n", "\r\n")
    replaced = "\ufefffrom kat.compat.kat_rational import KAT_Group\r\n"
    assert Path("vendored/bom.py").read_bytes().decode() == replaced
    assert file.stat().st_mode & 0o777 == 0o750
    assert "nowhere is not a folder" in refused(capsys, "compat", "nowhere")


def test_imports_on_one_line_and_in_another_encoding_are_replaced(tmp_path, capsys):
    text = "# coding: {}\ns = 'é'; import kat_rational; from katransformer import KAN\n"
    new = "import kat.compat.kat_rational as kat_rational; from kat.compat.katransformer import KAN"
    for encoding in ("latin-1", "utf-8"):
        (tmp_path / f"{encoding}.py").write_text(text.format(encoding), encoding)
    assert run("compat", tmp_path, "--replace", "--force") == 0
    for encoding in ("latin-1", "utf-8"):
        written = (tmp_path / f"{encoding}.py").read_bytes().decode(encoding)
        assert written == f"# coding: {encoding}\ns = 'é'; {new}\n"


def test_files_that_cannot_be_read_are_named_and_the_others_checked(tmp_path, capsys):
    outside = tmp_path.parent / f"{tmp_path.name}.py"
    outside.write_text("import kat_rational\n")
    unreadable = {
        "nul.py": b"import os\0", "brackets.py": b"(" * 300, "signs.py": b"-" * 100_000 + b"1",
        "calls.py": b"x" + b".a()" * 2_000, "bytes.py": b"s = '\xe9'", "name.py": b"# coding: none",
    }  # fmt: skip
    for name, content in unreadable.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "gone.py").symlink_to("nowhere")
    (tmp_path / "link.py").symlink_to(outside)
    (tmp_path / "last.py").write_text("import kat_rational\n")
    (tmp_path / "inside.py").symlink_to("last.py")
    assert run("compat", tmp_path, "--replace", "--force") == 1
    lines = capsys.readouterr().out.splitlines()
    named = {line.split(": ")[1] for line in lines if ": not read: " in line}
    assert named == {*unreadable, "folder.py", "gone.py", "link.py"}
    assert (tmp_path / "last.py").read_text().startswith("import kat.compat")
    assert outside.read_text() == "import kat_rational\n"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kat.py", "kat/__init__.py", "scripts/kat.py"])
def test_a_module_in_the_place_of_the_library_is_to_be_renamed_first(name, tmp_path, capsys):
    """Afterwards the script of the project runs."""
    module = tmp_path / name
    place = module.parents[name.count("__init__")]
    script = place / "train.py"
    for folder in ("kat", "scripts", "net"):
        (tmp_path / folder).mkdir(exist_ok=True)
    for file in ("__init__.py", "kat.py"):  # imported as net.kat
        (tmp_path / "net" / file).touch()
    module.write_text("from kat_rational import KAT_Group\nprint(KAT_Group.__module__)\n")
    script.write_text("import os, kat\nfrom kat import KAT_Group as K\nimport kat.compat\n")
    line = refused(capsys, "compat", tmp_path, "--replace", "--force")
    assert f" {module} " in line
    assert line.endswith(f" {script}:1, {script}:2\n")
    assert module.read_text().startswith("from kat_rational")
    renamed = place / module.relative_to(place).parts[0]
    renamed.rename(renamed.with_name(renamed.name.replace("kat", "own_kat")))
    script.write_text("import os, own_kat as kat\nfrom own_kat import KAT_Group as K\n")
    assert run("compat", tmp_path, "--replace", "--force") == 0
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("kat.compat.kat_rational\n", "")


def test_a_module_that_a_folder_names_is_not_in_the_place_of_the_library(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "kat.py").touch()
    (tmp_path / "train.py").write_text("from models.kat import K\nfrom kat_rational import fit\n")
    assert run("compat", tmp_path) == 1


def test_code_that_is_the_projects_own_is_not_written(project):
    assert not any(each.replacement for each in check.check(Path("own")))
