"""1-bit kernels in C: inference (burn.c) and training (train.c), built and loaded by `library`."""
