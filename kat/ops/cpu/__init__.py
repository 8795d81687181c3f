"""The CPU backend: a C++ library without torch's headers, its build, and its calls."""
