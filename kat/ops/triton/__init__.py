"""The GPU backend in Triton; only :mod:`kat.ops.triton.backend` imports without Triton."""
