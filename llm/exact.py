"""Recipes on enumerated answers: the same `prepare` and `loss`, with expectations as sums.

    expected_loss, expected_pair_loss   over every group of G answers, or every labelled pair: exact, differentiable
    moments                             mean and variance of the gradient of one group: bias and noise, exact
    monte_carlo                         the mean over sampled groups
    minimise                            the policy that minimises an expected loss, over all tables
    kl_optimum, pass_at_k, kl_forms     what there is to reach, in closed form

Everything is for n problems at once, of one prompt each: policies are (n, N, V) by prefix, rewards (n, Y) by answer.
Groups are replicas of the recipe, R = n M for M groups: each is a batch of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fenchel.errors import UserError
from fenchel.llm.recipe import PreferenceRecipe, Recipe
from fenchel.llm.rollout import Rollout
from fenchel.theory import tokens
from fenchel.theory.tokens import TokenTree, group_expectation, group_moments

Policy = Float[Tensor, "n N V"]
Values = Float[Tensor, " n"]
Groups = Int[Tensor, "M G"]
AnyRecipe = Recipe | PreferenceRecipe


@dataclass(frozen=True, eq=False)
class Enumerated:
    """n prompts whose answers are all known.

    old, reference (n, N, V): log-policies. reward, margin (n, Y). preference (n, Y, Y): P(y beats z). win_rate (n, Y):
    the exact chance of beating the opponent; without it the group plays itself. sampler (n, Y): the law that answers
    come from, by default the old policy's. value (n, N): a critic. reference_reward (n, K),
    baseline (n,), kl_estimate (n,): as in a rollout.
    """

    tree: TokenTree
    old: Policy
    reference: Policy
    reward: Tensor | None = None
    preference: Tensor | None = None
    win_rate: Tensor | None = None
    sampler: Tensor | None = None
    margin: Tensor | None = None
    value: Tensor | None = None
    reference_reward: Tensor | None = None
    baseline: Tensor | None = None
    kl_estimate: Tensor | None = None

    @property
    def law(self) -> Float[Tensor, "n Y"]:
        """Who samples."""
        return self.tree.sequence_log_probs(self.old).exp() if self.sampler is None else self.sampler

    def rollout(self, groups: Groups, **more: Any) -> Rollout:
        """Every group as a replica with one prompt. `more` fills or replaces fields."""
        tree, n = self.tree, len(self.old)
        own = {
            "tokens": torch.where(tree.mask, tree.tokens, -1).expand(n, -1, -1),
            "mask": tree.mask.expand(n, -1, -1),
            "old_logp": tree.token_log_probs(self.old),
            "ref_logp": tree.token_log_probs(self.reference),
            "sampler_logp": tree.token_log_probs(self.old),
            "score_norm": tree.scores(self.old).square().sum((-1, -2)),
            "truncated": torch.zeros(n, tree.num_completions, dtype=torch.bool, device=self.old.device),
            "reward": self.reward,
            "margin": self.margin,
            "value": None if self.value is None else self.value[:, tree.nodes],
            **statistics(tree, self.old),
        }
        shared = {"baseline": self.baseline, "reference_reward": self.reference_reward, "kl_estimate": self.kl_estimate}
        if self.reward is not None:
            shared["greedy_reward"] = self.reward.gather(1, greedy_answer(tree, self.old)[:, None])[:, 0]
        columns = {k: _picked(v, groups) for k, v in own.items() if v is not None}
        columns |= {k: v.repeat_interleave(len(groups), 0)[:, None] for k, v in shared.items() if v is not None}
        if self.preference is not None:
            columns["win"] = self.preference[:, groups[:, :, None], groups[:, None, :]].flatten(0, 1)[:, None]
        if self.win_rate is not None:
            columns["win"] = _picked(self.win_rate, groups)[..., None]
        return Rollout(**(columns | more), max_answer=tree.max_length)  # type: ignore[arg-type]

    def live(self, policy: Policy, groups: Groups, needs: frozenset[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """What a policy says of these groups, (R, 1, G, T), with its gradient."""
        wanted = {k: v for k, v in statistics(self.tree, policy).items() if f"live_{k}" in needs}
        extra = {k: _picked(v, groups) for k, v in wanted.items()}
        if "live_value" in needs and self.value is not None:
            extra["value"] = _picked(self.value[:, self.tree.nodes], groups)
        return _picked(self.tree.token_log_probs(policy), groups), extra


def _picked(x: Float[Tensor, "n Y *rest"], groups: Groups) -> Float[Tensor, "R one G *rest"]:
    """What belongs to the answers of every group."""
    return x[:, groups].flatten(0, 1)[:, None]


def statistics(tree: TokenTree, policy: Policy) -> dict[str, Float[Tensor, "n Y T"]]:
    """Entropy and mean log-probability of the next token before every token of every answer."""
    entropy, mean = -(policy.exp() * policy).sum(-1), policy.mean(-1)
    return {"entropy": entropy[:, tree.nodes], "mean_logp": mean[:, tree.nodes]}


def greedy_answer(tree: TokenTree, policy: Policy) -> Int[Tensor, " n"]:
    """The number of the answer that takes the likeliest token at every prefix."""
    best, node = policy.argmax(-1), torch.zeros(len(policy), dtype=torch.int64, device=policy.device)
    for _ in range(tree.max_length):
        prefix = node.clamp(max=tree.num_nodes - 1)
        token = best.gather(1, prefix[:, None])[:, 0]
        node = torch.where(node < tree.num_nodes, tree.child[prefix, token], node)
    return node - tree.num_nodes


# -- three evaluations -----------------------------------------------------------------------------------------------
def group_loss(
    recipe: AnyRecipe, problem: Enumerated, policy: Policy, groups: Groups, **more: Any
) -> Float[Tensor, "n M"]:
    """The recipe's loss of every group by itself. `more` fills or replaces fields of the rollout."""
    prepared = recipe.prepare(problem.rollout(groups, **more))
    logp, extra = problem.live(policy, groups, recipe.needs)
    return recipe.loss(prepared, logp, **extra).reshape(len(policy), len(groups))


def expected_loss(recipe: AnyRecipe, problem: Enumerated, policy: Policy, size: int) -> Values:
    """E over groups of `size` independent answers of the problem's law; differentiable in `policy` alone.

    Raises UserError above 1e7 groups.
    """
    return group_expectation(problem.law.detach(), lambda groups: group_loss(recipe, problem, policy, groups), size)


def expected_pair_loss(recipe: AnyRecipe, problem: Enumerated, policy: Policy) -> Values:
    """E over (chosen, rejected): two independent answers of the problem's law, labelled by its preference."""
    if problem.preference is None:
        raise UserError("problem has no preference, which pairs need.")
    each = torch.arange(problem.tree.num_completions, device=policy.device)
    law = tokens.preference_pairs(problem.law, problem.preference) / 2  # both orders of a pair are enumerated
    return 2 * (law.flatten(1).detach() * group_loss(recipe, problem, policy, torch.cartesian_prod(each, each))).sum(-1)


def expected_label_loss(
    recipe: PreferenceRecipe, problem: Enumerated, policy: Policy, desirable: Float[Tensor, "n Y"]
) -> Values:
    """E over single answers of the problem's law, each desirable with probability `desirable`."""
    single = torch.arange(problem.tree.num_completions, device=policy.device)[:, None]
    total = torch.zeros_like(problem.law[:, 0])
    for label, chance in ((1.0, desirable), (0.0, 1 - desirable)):
        flags = policy.new_full((len(policy) * len(single), 1, 1), label)
        loss = group_loss(recipe, problem, policy, single, label=flags)
        total = total + (problem.law.detach() * chance * loss).sum(-1)
    return total


def monte_carlo(
    recipe: AnyRecipe, problem: Enumerated, policy: Policy, uniforms: Float[Tensor, "n S G"]
) -> tuple[Values, Values]:
    """(mean, standard error) of the loss over S groups, drawn by inverting the law at `uniforms`."""
    steps = problem.law.detach().cumsum(-1)
    index = torch.searchsorted(steps, uniforms.flatten(1)).clamp(max=steps.shape[-1] - 1).reshape(uniforms.shape)
    losses = [
        group_loss(recipe, one, policy[i : i + 1], index[i])[0]
        for i, one in ((i, _single(problem, i)) for i in range(len(policy)))
    ]
    loss = torch.stack(losses)
    return loss.mean(-1), loss.std(-1) / loss.shape[-1] ** 0.5


def _single(problem: Enumerated, i: int) -> Enumerated:
    columns: dict[str, Any] = {k: v[i : i + 1] if isinstance(v, Tensor) else v for k, v in vars(problem).items()}
    return Enumerated(**columns)


def gradient(loss: Callable[[Policy], Tensor], policy: Policy) -> Policy:
    """The gradient of an expected loss in the logits of a log-policy."""
    logits = policy.detach().clone().requires_grad_()
    return torch.autograd.grad(loss(logits.log_softmax(-1)).sum(), logits)[0]


def moments(recipe: Recipe, problem: Enumerated, policy: Policy, size: int) -> tuple[Policy, Policy]:
    """(mean, variance) over groups of the gradient in logits. The recipe's gradient runs through log pi alone."""

    def gradients(groups: Groups) -> Float[Tensor, "n M N V"]:
        logp, extra = problem.live(policy.detach(), groups, recipe.needs)
        loss = recipe.loss(recipe.prepare(problem.rollout(groups)), logp.requires_grad_(), **extra)
        slope = torch.autograd.grad(loss.sum(), logp)[0]
        return token_gradient(problem.tree, policy, slope.reshape(len(policy), *groups.shape, -1), groups)

    return group_moments(problem.law.detach(), gradients, size)


def token_gradient(
    tree: TokenTree, policy: Policy, slope: Float[Tensor, "n M G T"], groups: Groups
) -> Float[Tensor, "n M N V"]:
    """From d loss / d log pi(token), of every group, to d loss / d logits."""
    (n, M), V = slope.shape[:2], tree.vocabulary
    node, token = tree.nodes[groups].flatten(1), tree.tokens[groups].flatten(1)
    slope = (slope * tree.mask[groups]).flatten(2)
    taken = slope.new_zeros(n, M, tree.num_nodes * V).scatter_add(-1, (node * V + token).expand_as(slope), slope)
    visited = slope.new_zeros(n, M, tree.num_nodes).scatter_add(-1, node.expand_as(slope), slope)
    return taken.reshape(n, M, -1, V) - visited[..., None] * policy.exp()[:, None]


def minimise(loss: Callable[[Policy], Tensor], start: Policy, iterations: int = 500) -> Policy:
    """The log-policies at which an expected loss is least, from `start`, by L-BFGS on the logits of all prefixes."""
    logits = start.detach().clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [logits], max_iter=iterations, tolerance_grad=1e-12, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss(logits.log_softmax(-1)).sum()
        value.backward()
        return value

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return logits.detach().log_softmax(-1)


# -- what there is to reach ------------------------------------------------------------------------------------------
def objective(problem: Enumerated, policy: Policy, beta: float = 0.0) -> Values:
    """E r - beta KL(pi, ref) of whole answers."""
    assert problem.reward is not None
    log_pi, log_ref = (problem.tree.sequence_log_probs(x) for x in (policy, problem.reference))
    return (log_pi.exp() * problem.reward).sum(-1) - beta * tokens.kl(log_pi, log_ref)


def kl_optimum(problem: Enumerated, beta: float) -> tuple[Policy, Values]:
    """(log-policy, value): what maximises E r - beta KL(pi, ref), prefix by prefix."""
    if problem.reward is None:
        raise UserError("problem has no reward, which an optimum needs.")
    best, value = tokens.kl_optimum(problem.tree.sequence_log_probs(problem.reference), problem.reward, beta)
    return problem.tree.conditionals(best), value


def pass_at_k(problem: Enumerated, policy: Policy, k: int, threshold: float = 0.0) -> Values:
    """The chance that one of k independent answers is right: 1 - (1 - p)^k."""
    assert problem.reward is not None
    right = (problem.reward > threshold).to(policy.dtype)
    p = (problem.tree.sequence_log_probs(policy).exp() * right).sum(-1)
    return -torch.expm1(k * torch.log1p(-p))


def kl_forms(problem: Enumerated, policy: Policy) -> dict[str, Values]:
    """sequence: KL(pi, ref) of answers. prefixes: the same as a sum over prefixes, weighted by their probability.
    per_token: the mean of an answer's log-ratio per token. forward: KL(ref, pi)."""
    tree, ref = problem.tree, problem.reference
    log_pi, log_ref = tree.sequence_log_probs(policy), tree.sequence_log_probs(ref)
    return {
        "sequence": tokens.kl(log_pi, log_ref),
        "prefixes": (tree.reach(policy).exp() * tokens.kl(policy, ref)).sum(-1),
        "per_token": (log_pi.exp() * (log_pi - log_ref) / tree.lengths).sum(-1),
        "forward": tokens.kl(log_ref, log_pi),
    }
