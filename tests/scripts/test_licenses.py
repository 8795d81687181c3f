"""Licenses: scripts/licenses.py names the packages under licenses that are not allowed."""

from __future__ import annotations

from importlib.metadata import Distribution, PackageNotFoundError

import pytest

GPL = """                    GNU GENERAL PUBLIC LICENSE
                       Version 3, 29 June 2007
"""
LGPL = """
                   GNU LESSER GENERAL PUBLIC LICENSE
                       Version 3, 29 June 2007

  This version incorporates the terms of version 3 of the GNU General Public License
"""


@pytest.fixture
def licenses(script):
    return script("licenses")


@pytest.fixture
def install(licenses, tmp_path, monkeypatch):
    """Installs packages, and kat, which requires them all and ``missing`` if told so."""

    def add(name, metadata="", text=None, requires=()):
        folder = tmp_path / f"{name.replace('-', '_')}-1.dist-info"
        folder.mkdir()
        lines = [f"Name: {name}", "Version: 1", *(f"Requires-Dist: {one}" for one in requires)]
        (folder / "METADATA").write_text("\n".join(lines) + f"\n{metadata}")
        files = ["METADATA"]
        if text is not None:
            (folder / "COPYING").write_text(text)
            files.append("COPYING")
        (folder / "RECORD").write_text("".join(f"{folder.name}/{file},,\n" for file in files))

    def distribution(name):
        for package in Distribution.discover(name=name, path=[str(tmp_path)]):
            return package
        raise PackageNotFoundError(name)

    monkeypatch.setattr(licenses, "distribution", distribution)
    return add


@pytest.mark.parametrize(
    ("metadata", "text", "allowed"),
    [
        ("License: MIT\n", None, True),
        ("License-Expression: GPL-3.0-or-later\n", None, False),
        ("License-Expression: LGPL-3.0-or-later\n", None, True),
        ("Classifier: License :: OSI Approved :: GNU General Public License v3\n", "", False),
        ("", "MIT License\n\nCopyright", True),
        ("", GPL, False),
        ("", LGPL, True),
        ("", None, False),
    ],
)
def test_licenses(licenses, install, capsys, metadata, text, allowed):
    install(licenses.PROJECT, requires=["other"])
    install("other", metadata, text)
    assert licenses.main([]) == int(not allowed)
    assert f"1 packages, {int(not allowed)} not allowed" in capsys.readouterr().out
