"""Provenance of results: a checkout has its commit, and an installed copy its version."""

from __future__ import annotations

import shutil
import subprocess

import pytest
import torch

import kat
from kat.training.record import provenance


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_commit_is_of_the_checkout_of_the_library_alone(tmp_path, monkeypatch):
    def git(*command):
        call = ("git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", *command)
        return subprocess.check_output(call, text=True).strip()

    def commit_in(folder):
        place = folder / "kat" / "training" / "record" / "provenance.py"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
        monkeypatch.setattr(provenance, "__file__", str(place))
        return provenance.commit.__wrapped__()

    installed = tmp_path / ".venv"
    (tmp_path / "README").touch()
    git("init", "-q")
    git("add", "README")
    git("commit", "-qm", "of another project")
    assert commit_in(tmp_path) == commit_in(installed) == kat.__version__
    git("add", "kat")
    git("commit", "-qm", "of the library")
    head = git("rev-parse", "HEAD")
    assert (commit_in(tmp_path), commit_in(installed)) == (head, kat.__version__)
    (tmp_path / "README").write_text("changed")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))  # as a hook of another repository
    assert commit_in(tmp_path) == f"{head}+"
    monkeypatch.setenv("PATH", "")
    assert commit_in(tmp_path) == kat.__version__


def test_processor_and_kernel_are_of_the_device_and_threads_of_torch(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    cpu, gpu = (provenance.provenance(torch.device(kind)) for kind in ("cpu", "cuda"))
    assert (cpu["processor"] in ("", "a GPU"), gpu["processor"]) == (False, "a GPU")
    assert cpu["kernel"] in ("off", "baseline", "avx2", "avx512")
    assert gpu["kernel"] in ("off", "triton")
    assert cpu["threads"] == str(torch.get_num_threads())
