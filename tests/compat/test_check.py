"""``python -m kat.compat --check`` and ``--replace`` on projects in many shapes."""

from __future__ import annotations

from pathlib import Path

import pytest

from kat.compat import check

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
    with pytest.raises(SystemExit, match="git"):
        check.main(Path("vendored"), write=True, force=False)
    assert b"third_party" in file.read_bytes()
    (project / ".git").mkdir()
    file.chmod(0o750)
    assert check.main(Path("vendored"), write=True, force=False) == 1  # one name is not served
    assert (
        "\n+from kat.compat.kat_rational import KAT_Group as Group  # ours"
        in capsys.readouterr().out
    )
    assert file.read_bytes().decode() == REPLACED.replace("\n", "\r\n")
    replaced = "\ufefffrom kat.compat.kat_rational import KAT_Group\r\n"
    assert Path("vendored/bom.py").read_bytes().decode() == replaced
    assert file.stat().st_mode & 0o777 == 0o750
    with pytest.raises(SystemExit, match="nowhere does not exist"):
        check.main(Path("nowhere"), write=False, force=False)


def test_code_that_is_the_projects_own_or_cannot_be_read_is_not_written(project):
    Path("own/latin.py").write_bytes("s = 'é'; import kat_rational".encode("latin-1"))
    Path("own/link.py").symlink_to("nowhere")
    found = check.check(Path("own"))
    assert "not read" in str(found[0])
    assert not any(each.replacement for each in found)
