"""Losses as pure functions of tensors. Logits are `[B, K]`, features `[B, D]`; every loss is a mean over the batch."""

import torch
import torch.nn.functional as F

from .distributed import gather_over_processes, mean_over_processes, most_exact, rank, sum_over_processes

FS_LOSSES = ("cosine", "l1", "l2", "unit-l2", "relations", "assignment")
KL_DIRECTIONS = ("student-target", "target-student")


def at_least_float32(x: torch.Tensor) -> torch.Tensor:
    """Half precision as float32: log-probabilities and entropies lose all their digits in bfloat16."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def unit_vectors(x: torch.Tensor) -> torch.Tensor:
    """Rows of `[..., D]` at length 1, in float32 where `x` is in half precision."""
    return F.normalize(at_least_float32(x), dim=-1)


def kl_divergence(
    target_logits: torch.Tensor,
    student_logits: torch.Tensor,
    temperature: float = 1.0,
    direction: str = "student-target",
) -> torch.Tensor:
    """KL divergence between the softmax outputs of target and student (BURN, Eq. 1).

    Args:
        target_logits, student_logits: `[B, K]`; p1 and p2 are their softmax at `temperature`.
        direction: `student-target` is D(p2 || p1), line 24 of Algorithm 1; `target-student` is D(p1 || p2).

    Returns:
        Scalar, in nats, mean over B. The gradient flows into both sides: g_theta is trained by it too.
    """
    log_p1 = F.log_softmax(at_least_float32(target_logits) / temperature, dim=-1)
    log_p2 = F.log_softmax(at_least_float32(student_logits) / temperature, dim=-1)
    if direction == "student-target":
        return (log_p2.exp() * (log_p2 - log_p1)).sum(-1).mean()
    if direction == "target-student":
        return (log_p1.exp() * (log_p1 - log_p2)).sum(-1).mean()
    raise ValueError(f"direction must be one of {', '.join(KL_DIRECTIONS)}, not {direction!r}")


def feature_similarity(
    v1: torch.Tensor, v2: torch.Tensor, kind: str = "cosine", temperature: float = 0.1,
) -> torch.Tensor:
    """L_FS(v1, v2) between the target's features and the student's, `[B, D]` twice, mean over B.

    The paper's (BURN, Sec. 3.2 and Table 6):
        `cosine`: 1 - <v1, v2> / (|v1| |v2|); `l1`: ||v1 - v2||_1; `l2`: ||v1 - v2||_2.
    `unit-l2`: 2 (1 - cos), the squared L2 distance of the unit vectors (BYOL, Eq. 2, and BURN's released code).
    `assignment`: cross-entropy of the two softmaxes over the D entries of the unit vectors, divided by `temperature`
        (S2-BNN, Shen et al., CVPR 2021; its temperature is 0.2). No gradient for the target.
    `relations`: cross-entropy of the cosines of each image's student features with the target's features of all images
        of the batch, over all processes, and the target's own such cosines; both as softmaxes at `temperature` (SEED,
        Fang et al., ICLR 2021, Eq. 3 to 5, with the batch in the place of its queue and one temperature).
    """
    v1, v2 = at_least_float32(v1), at_least_float32(v2)
    if kind == "relations":
        everything = gather_over_processes(unit_vectors(v1))
        with torch.autocast(v2.device.type, enabled=False):  # it would take the similarities in half precision
            logits = unit_vectors(v2) @ everything.T / temperature
            target = F.softmax((unit_vectors(v1) @ everything.T).detach() / temperature, dim=-1)
        return F.cross_entropy(logits, target)
    if kind == "assignment":
        return soft_cross_entropy(unit_vectors(v1), unit_vectors(v2), temperature)
    if kind in ("cosine", "unit-l2"):
        return (1 if kind == "cosine" else 2) * (1 - F.cosine_similarity(v1, v2, dim=-1)).mean()
    if kind == "l1":
        return (v1 - v2).abs().sum(-1).mean()
    if kind == "l2":
        return torch.linalg.vector_norm(v1 - v2, dim=-1).mean()
    raise ValueError(f"kind must be one of {', '.join(FS_LOSSES)}, not {kind!r}")


def target_entropies(logits: torch.Tensor, temperature: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Entropy of the mean class distribution and mean entropy, both scalars in nats.

    Their difference is the mutual information between image and target class: 0 for a target that says the same of
    every image, log K at most. The mean distribution and the mean entropy are over all processes.
    """
    log_p = F.log_softmax(at_least_float32(logits) / temperature, dim=-1)
    p = log_p.exp()
    mean_p = mean_over_processes(p.mean(0))
    # A plain x log x: xlogy's gradient at 0 is -inf, and a class that no image chooses has mean probability 0.
    entropy_of_mean = -(mean_p * mean_p.clamp_min(torch.finfo(mean_p.dtype).tiny).log()).sum()
    mean_entropy = mean_over_processes(-(p * log_p).sum(-1).mean())
    return entropy_of_mean, mean_entropy


def nt_xent(z1: torch.Tensor, z2: torch.Tensor, temperature: float = 0.1) -> torch.Tensor:
    """NT-Xent, the contrastive loss of SimCLR (Chen et al., ICML 2020, Eq. 1) with negatives from all processes.

    Args:
        z1, z2: Projections `[B, D]` of two views of the same images; normalised here.

    Returns:
        Scalar: mean over the 2B local anchors. Averaged over processes it is the loss of the whole batch.
    """
    z1, z2 = unit_vectors(z1), unit_vectors(z2)
    batch = z1.shape[0]
    all1, all2 = gather_over_processes(z1), gather_over_processes(z2)
    everything = torch.cat([all1, all2])
    total = all1.shape[0]
    own = torch.arange(batch, device=z1.device) + rank() * batch
    anchors = torch.cat([own, own + total])
    positives = torch.cat([own + total, own])
    with torch.autocast(z1.device.type, enabled=False):  # it would take the similarities in half precision
        logits = torch.cat([z1, z2]) @ everything.T / temperature
    itself = torch.zeros_like(logits, dtype=torch.bool)
    itself[torch.arange(2 * batch, device=z1.device), anchors] = True
    logits = logits.masked_fill(itself, float("-inf"))
    return F.cross_entropy(logits, positives)


def info_nce(queries: torch.Tensor, keys: torch.Tensor, queue: torch.Tensor, temperature: float = 0.2) -> torch.Tensor:
    """InfoNCE with a queue of negatives (MoCo, He et al., CVPR 2020, Eq. 1).

    Args:
        queries, keys: `[B, D]`, row by row of the same images, L2-normalised.
        queue: Keys of other images `[K, D]`, L2-normalised.

    Returns:
        Scalar, mean over B. The gradient flows into the queries alone.
    """
    queries, keys, queue = (at_least_float32(x) for x in (queries, keys.detach(), queue.detach()))
    with torch.autocast(queries.device.type, enabled=False):  # it would take the similarities in half precision
        positive = (queries * keys).sum(-1, keepdim=True)
        logits = torch.cat([positive, queries @ queue.T.to(queries.dtype)], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64, device=logits.device))


def soft_cross_entropy(
    target_logits: torch.Tensor, student_logits: torch.Tensor, temperature: float = 1.0,
) -> torch.Tensor:
    """- sum_k p_k log s_k, p and s the softmax of `[B, K]` logits at `temperature`; scalar, mean over B.

    The loss of ReActNet (Liu et al., ECCV 2020, Eq. 7) and of S2-BNN's distillation. No gradient for the target.
    """
    p = F.softmax(at_least_float32(target_logits.detach()) / temperature, dim=-1)
    return -(p * F.log_softmax(at_least_float32(student_logits) / temperature, dim=-1)).sum(-1).mean()


@torch.no_grad()
def sinkhorn(scores: torch.Tensor, epsilon: float = 0.05, iterations: int = 3) -> torch.Tensor:
    """Soft assignment of images to prototypes, each prototype with the same share (SwAV, Caron et al., 2020, Eq. 3-5).

    Args:
        scores: Cosine similarities `[N, K]`; N may differ between processes, the shares are over all of them.

    Returns:
        `[N, K]`, in `most_exact`'s dtype; every row sums to 1.
    """
    q = ((scores.to(most_exact(scores.device)) - 1) / epsilon).exp()  # cosines are at most 1: nothing overflows
    total = sum_over_processes(torch.full((), float(len(q)), dtype=q.dtype, device=q.device))
    q = q / sum_over_processes(q.sum())
    tiny = torch.finfo(q.dtype).tiny
    for _ in range(iterations):
        shares = sum_over_processes(q.sum(0, keepdim=True)).clamp_min(tiny)  # 0 for a class far below all others
        q = q / shares / q.shape[1]
        q = q / q.sum(1, keepdim=True) / total
    return q * total
