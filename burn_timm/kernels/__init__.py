"""1-bit convolutions on a CPU by counting bits, compiled by numba: for inference (`kernels`) and training."""
