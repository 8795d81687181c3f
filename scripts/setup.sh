#!/bin/sh
# Makes the virtual environment and installs torch and this project, with one extra, into it.
# Reads EXTRA, PYTHON, VENV and TORCH_INDEX, see the Makefile, and CONSTRAINTS, a file of versions
# for pip.
set -eu

"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "Python 3.11 or newer is needed; $PYTHON is $("$PYTHON" --version 2>&1)." >&2
    echo "Name another one: make PYTHON=python3.12 ..." >&2
    exit 1
}

if [ ! -x "$VENV/bin/python" ]; then
    echo "setting up $VENV (a few minutes the first time)"
    "$PYTHON" -m venv "$VENV" || {
        rm -rf "$VENV"
        echo "python3-venv is missing: apt install python3-venv" >&2
        exit 1
    }
fi

pip() {
    "$VENV/bin/python" -m pip --quiet --disable-pip-version-check "$@"
}

# The CPU build comes from PyTorch's own index. Where that cannot be reached, pip's own index has
# a build that runs on the CPU as well.
if ! "$VENV/bin/python" -c 'import torch, torchvision' 2>/dev/null; then
    if [ -n "$TORCH_INDEX" ] && pip download --no-deps --dest "$VENV/torch" --retries 0 \
        --timeout 15 --index-url "$TORCH_INDEX" 'torch>=2.10,<3' 'torchvision>=0.25,<1' 2>/dev/null
    then
        pip install "$VENV"/torch/*.whl
        rm -r "$VENV/torch"
    else
        pip install 'torch>=2.10,<3' 'torchvision>=0.25,<1'
    fi
fi
pip install ${CONSTRAINTS:+--constraint "$CONSTRAINTS"} --editable ".[$EXTRA]"
"$VENV/bin/python" -c 'import torch; print(f"ready: torch {torch.__version__}", "with CUDA" if torch.cuda.is_available() else "on the CPU")'
