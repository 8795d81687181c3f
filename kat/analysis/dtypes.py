"""The dtypes of ``kat verify``, without torch and pydantic: the GPU report has only the former."""

DTYPES = ("float32", "bfloat16", "float16", "float64")
"""The dtypes in which backends are compared."""
