"""Many runs: grids of settings and seeds, and the launcher that makes them side by side."""
