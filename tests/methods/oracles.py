"""The papers' formulas by numpy and scipy, in float64, apart from torch. Rows are images."""

import numpy as np
import torch
from scipy.special import log_softmax, softmax


def array(rows) -> np.ndarray:
    return rows.detach().double().numpy() if isinstance(rows, torch.Tensor) else np.asarray(rows, dtype=float)


def unit(rows) -> np.ndarray:
    return array(rows) / np.linalg.norm(array(rows), axis=-1, keepdims=True)


def probabilities(rows, temperature=1.0) -> np.ndarray:
    return softmax(array(rows) / temperature, axis=-1)


def cross_entropy(p, rows, temperature=1.0) -> float:
    """Of the distributions `p` and the softmax of the logits `rows`."""
    return -float((array(p) * log_softmax(array(rows) / temperature, axis=-1)).sum(-1).mean())


def entropy(p) -> np.ndarray:
    return -(p * np.log(p)).sum(-1)


def information(rows, temperature) -> float:
    """H(mean p) - mean H(p)."""
    p = probabilities(rows, temperature)
    return float(entropy(p.mean(0)) - entropy(p).mean())


def info_nce(queries, keys, queue, temperature) -> float:
    """He et al., CVPR 2020, Eq. 1; everything of length one."""
    logits = np.c_[(array(queries) * array(keys)).sum(1), array(queries) @ array(queue).T] / temperature
    return -float(log_softmax(logits, axis=1)[:, 0].mean())


def sinkhorn(scores, epsilon, iterations) -> np.ndarray:
    """Caron et al., NeurIPS 2020, Eq. 3-5: rows sum to 1, columns to N / K."""
    q = np.exp(array(scores) / epsilon)
    for _ in range(iterations):
        q = q / q.sum(0) / q.shape[1]
        q = q / q.sum(1, keepdims=True) / len(q)
    return q * len(q)
