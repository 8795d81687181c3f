"""An emulator of compiled GPU kernels: it runs the PTX that Triton emits, without a GPU."""
