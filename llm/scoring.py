"""What a policy says of given answers: statistics (R, N, G, L) of its laws at their tokens."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from fenchel.llm.policies.policy import Policy, temper

STATISTICS = ("logp", "entropy", "mean_logp", "score_norm")


def statistics(
    policy: Policy,
    tokens: Tensor,
    mask: Tensor,
    names: Collection[str],
    *,
    temperature: Any = 1.0,
    support: Tensor | None = None,
    chunk: int | None = None,
) -> dict[str, Tensor]:
    """Of the answers' tokens, 0 elsewhere; tokens, mask (R, N, G, L), support (R, N, G, L, bytes).

    logp, entropy      of the law that is sampled from
    mean_logp          the mean over the vocabulary of log pi(. | s_t); the support is not regarded
    score_norm (R, N, G)   sum_t |1[y_t] - pi(. | s_t)|^2: the squared gradient of log pi(y) in the logits, which stands
                       in for that in the parameters
    """
    rows, flat = tokens.flatten(1, 2), mask.flatten(1, 2)
    options: dict[str, Any] = {"temperature": temperature, "chunk": chunk}
    options["support"] = None if support is None else support.flatten(1, 2)
    found = {}
    if "entropy" in names and "logp" in names:
        found["logp"], found["entropy"] = policy.logp_and_entropy(rows, flat, **options)
    elif "entropy" in names:
        found["entropy"] = policy.entropy(rows, flat, **options)
    elif "logp" in names:
        found["logp"] = policy.logp(rows, flat, **options)
    if {"mean_logp", "score_norm"} & set(names):
        z = temper(policy.logits(rows).flatten(1, 2), temperature).unflatten(1, rows.shape[1:])
        log_p = z - z.logsumexp(-1, keepdim=True)
        if "mean_logp" in names:
            found["mean_logp"] = torch.where(flat, log_p.mean(-1), 0.0)
        if "score_norm" in names:
            taken = log_p.gather(-1, rows.clamp(min=0).unsqueeze(-1)).squeeze(-1).exp()
            norm = 1 - 2 * taken + log_p.exp().square().sum(-1)
            found["score_norm"] = torch.where(flat, norm, 0.0).sum(-1)
    return {name: value.unflatten(1, tokens.shape[1:3]) for name, value in found.items()}
