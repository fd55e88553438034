"""Random rollouts with everything that any recipe may need: ragged prompts and answers, one uniform group."""

from __future__ import annotations

import torch

from fenchel.llm.rollout import Rollout
from fenchel.theory.rng import Streams

PROMPT, ANSWER = 3, 5


def rollout(seed=0, R=2, N=4, G=4, dtype=torch.float64) -> tuple[Rollout, dict[str, torch.Tensor]]:
    """(rollout, live statistics with a gradient). L = 8: prompts padded on the left, answers on the right."""
    seeds = [seed + i for i in range(R)]
    streams, L = Streams(seeds), PROMPT + ANSWER

    def normal(name, *shape):
        return streams.normal(name, shape, dtype=torch.float64).to(dtype)

    length = 1 + streams.integers("length", ANSWER, (N, G))
    prompt = 1 + streams.integers("prompt", PROMPT, (N,))
    place = torch.arange(L)
    mask = (place >= PROMPT) & (place < PROMPT + length[..., None])
    present = (place >= PROMPT - prompt[:, :, None, None]) & (place < PROMPT + length[..., None])
    tokens = torch.where(present, streams.integers("tokens", 7, (N, G, L)), -1)

    def logp(name, base=None):
        value = -normal(name, N, G, L).abs() - 0.1 if base is None else base + 0.3 * normal(name, N, G, L)
        return value * mask

    old = logp("old")
    reward = normal("reward", N, G)
    reward[:, 0] = 1.0  # a uniform group
    win = torch.sigmoid(normal("win", N, G, G))
    win = (win - win.mT + 1) / 2
    data = Rollout(
        tokens=tokens,
        mask=mask,
        old_logp=old,
        reward=reward,
        max_answer=ANSWER,
        truncated=normal("truncated", N, G) > 1.0,
        ref_logp=logp("ref", old),
        sampler_logp=logp("sampler", old),
        value=normal("value", N, G, L),
        entropy=normal("entropy", N, G, L).abs(),
        mean_logp=-normal("mean", N, G, L).abs() - 1,
        score_norm=normal("score", N, G).abs(),
        greedy_reward=normal("greedy", N),
        baseline=normal("baseline", N).abs(),
        reference_reward=normal("reference", N, 6),
        win=win,
        label=(normal("label", N, G) > 0).to(dtype),
        margin=normal("margin", N, G),
        kl_estimate=normal("kl", 1).abs().expand(R, N),
    )
    live = {
        "logp": logp("logp", old),
        "entropy": normal("live entropy", N, G, L).abs(),
        "mean_logp": data.mean_logp + 0.3 * normal("live mean", N, G, L),
        "value": data.value + 0.5 * normal("live value", N, G, L),
    }
    return data, {name: value.detach().requires_grad_() for name, value in live.items()}


def arguments(recipe, live, prompts=slice(None)):
    """The positional log-probabilities and the further statistics that the recipe reads, at these prompts."""
    extra = {
        name: live[name][:, prompts] for name in ("entropy", "mean_logp", "value") if f"live_{name}" in recipe.needs
    }
    return live["logp"][:, prompts], extra


def loss(recipe, data, live, prompts=None):
    """(R,): the loss of the whole batch, or of a slice of its prompts."""
    prepared = recipe.prepare(data)
    prompts = slice(None) if prompts is None else prompts
    logp, extra = arguments(recipe, live, prompts)
    return recipe.loss(prepared[prompts], logp, **extra)


def gradient(recipe, data, live, prompts=None):
    """(loss, gradient in log pi)."""
    value = loss(recipe, data, live, prompts)
    return value.detach(), torch.autograd.grad(value.sum(), live["logp"])[0]


def size(recipe) -> int:
    """Answers per prompt in these tests: pairs for what learns from pairs."""
    return 2 if hasattr(recipe, "link") and recipe.group_size == 2 else 4
