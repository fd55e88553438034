"""How good a token policy is, on test prompts: by enumeration where the task can be enumerated, else by sampling.

    pass@1       mean reward of the verifier: the chance of a right answer
    pass@k       1 - C(n - c, k) / C(n, k), c right ones of n answers per prompt: unbiased for 1 - (1 - p)^k
    length       tokens per answer, the end token included
    entropy      - E log pi(y | x) of whole answers, in nats
    kl           KL(pi, first policy) of whole answers, in nats

Sampled, entropy and kl are means over answers of the sums over their prefixes of the next token's exact entropy and
divergence, which have the same expectation as the log-probability and the log-ratio, and less variance. All are at
temperature 1, of the whole law. The KL is to the warm start, which the reference is at first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fenchel.llm.gather import judged
from fenchel.llm.policies.policy import Policy
from fenchel.llm.sampling import sample
from fenchel.llm.sequences import join
from fenchel.llm.sources import paired
from fenchel.theory import tokens as enumerated
from fenchel.theory.rng import Streams

if TYPE_CHECKING:
    from fenchel.llm.reward_model import RewardModel
    from fenchel.llm.tasks.task import Problems, TokenTask
    from fenchel.llm.training import TokenLearner

CHUNK = 2048  # sequences per replica whose logits stand in memory at a time
LOGITS = 1 << 26  # numbers per replica that stand in memory at a time, which large vocabularies reach first


@torch.no_grad()
def evaluate(learner: TokenLearner, task: TokenTask, prompts: int, step: int) -> dict[str, list]:
    """Per replica: return_mean (of what training sees), pass_at_1, pass_at_k, k, length_mean, entropy, kl; and the cost
    of an answer, for a learner that heeds one."""
    first = learner.first_policy()
    problems = task.problems(learner.split)
    if task.enumerable:
        if learner.first_table is None:
            learner.first_table = table(first, task, problems.prompts)
        given = (learner.config.pass_k, learner.judge, learner.cost_of)
        found = exactly(learner.model, learner.first_table, task, problems, *given)
    else:
        found = sampled(learner, first, task, problems, min(prompts, len(problems)), step)
        found |= ordered(learner.model, first, problems)
    return {name: value.tolist() for name, value in found.items()} | {"k": [learner.config.pass_k] * learner.R}


def sampled(
    learner: TokenLearner, first: Policy, task: TokenTask, problems: Problems, count: int, step: int
) -> dict[str, Tensor]:
    """From `eval_answers` answers to each of the first `count` test prompts, the same ones at every evaluation."""
    config, R = learner.config, learner.R
    rng = Streams(learner.seeds, learner.device)
    ids = torch.arange(count, device=learner.device).expand(R, -1)
    prompts = problems.prompts.to(learner.device)[ids]
    s = sample(learner.model, prompts, config.eval_answers, task.max_answer, rng=rng, counter=step, name="eval")
    index = ids.unsqueeze(-1).expand(s.truncated.shape)
    right = problems.verify(index, s.answers).double()
    reward = judged(problems, ids, s, learner.judge).double()
    entropy, kl = _divergences(learner.model, first, s.tokens.flatten(1, 2), s.mask.flatten(1, 2))
    cost = {} if learner.cost_of is None else {"cost": learner.cost_of(s.tokens, s.mask).double().sum(-1)}
    return {name: value.flatten(1).mean(1) for name, value in cost.items()} | {
        "return_mean": reward.view(R, -1).mean(1) if reward.ndim == 3 else reward.sum(-1).view(R, -1).mean(1),
        "pass_at_1": right.view(R, -1).mean(1),
        "pass_at_k": pass_at_k(right.sum(-1), config.eval_answers, config.pass_k).mean(1),
        "length_mean": s.mask.sum(-1).double().view(R, -1).mean(1),
        "entropy": entropy.mean(1),
        "kl": kl.mean(1),
    }


def ordered(policy: Policy, first: Policy, problems: Problems) -> dict[str, Tensor]:
    """preference_accuracy: the share of a task's own pairs in which log pi - log pi_first is larger for the chosen one,
    equal ones counting half; nothing for a task without pairs."""
    answers = problems.task.pairs(problems)
    if answers is None:
        return {}
    s, _ = paired(problems, answers.to(policy.flat.device))
    tokens, mask = (x.flatten(0, 1).unsqueeze(0) for x in (s.tokens, s.mask))
    ratio = []
    for part, kept in zip(tokens.split(CHUNK, 1), mask.split(CHUNK, 1), strict=True):
        mine, theirs = (p.logp(part.expand(p.R, -1, -1), kept.expand(p.R, -1, -1)) for p in (policy, first))
        ratio.append((mine - theirs).sum(-1).double())
    chosen, rejected = torch.cat(ratio, 1).unflatten(1, (-1, 2)).unbind(-1)
    return {"preference_accuracy": ((chosen - rejected).sign().mean(1) + 1) / 2}


def _divergences(policy: Policy, first: Policy, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """(R, B): sums over an answer's prefixes of the next token's entropy, and of its KL to the first policy (R = 1)."""
    rows = []
    size = min(CHUNK, max(1, LOGITS // (tokens.shape[-1] * policy.vocabulary)))
    for part, kept in zip(tokens.split(size, 1), mask.split(size, 1), strict=True):
        log_p = policy.logits(part).log_softmax(-1)
        log_q = first.logits(part.flatten(0, 1).unsqueeze(0)).log_softmax(-1).view_as(log_p)
        p = log_p.exp()
        terms = (-(p * log_p).sum(-1), (p * (log_p - log_q)).sum(-1))
        rows.append(torch.stack([torch.where(kept, term, 0.0).sum(-1).double() for term in terms]))
    entropy, kl = torch.cat(rows, -1)
    return entropy, kl


def pass_at_k(right: Tensor, n: int, k: int) -> Tensor:
    """1 - C(n - c, k) / C(n, k) for c = `right` of n answers. (Chen et al. 2021; as a product, without factorials.)"""
    i = torch.arange(k, dtype=torch.float64, device=right.device)
    return 1 - ((n - right.unsqueeze(-1) - i).clamp(min=0) / (n - i)).prod(-1)


def exactly(
    policy: Policy,
    first: Tensor,
    task: TokenTask,
    problems: Problems,
    k: int,
    judge: RewardModel | None = None,
    cost_of: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> dict[str, Tensor]:
    """By sums over all answers to all prompts of an enumerable task, in float64; first: the first policy's `table`."""
    tree, log_policy = task.tree, table(policy, task, problems.prompts)
    log_pi = tree.sequence_log_probs(log_policy)
    log_first = tree.sequence_log_probs(first)
    pi = log_pi.exp()
    p = (pi * problems.right).sum(-1)
    earned = problems.earned if judge is None else torch.stack([judge(rows).double() for rows, _ in every(problems)])
    cost = {}
    if cost_of is not None:
        of_all = torch.stack([cost_of(*rows).double().sum(-1) for rows in every(problems)])
        cost["cost"] = (pi * of_all).sum(-1).mean(1)
    return cost | {
        "return_mean": (pi * earned).sum(-1).mean(1),
        "pass_at_1": p.mean(1),
        "pass_at_k": (1 - (1 - p).clamp(min=0) ** k).mean(1),
        "length_mean": (pi * tree.lengths).sum(-1).mean(1),
        "entropy": -(pi * log_pi).sum(-1).mean(1),
        "kl": enumerated.kl(log_pi, log_first.expand_as(log_pi)).mean(1),
    }


def every(problems: Problems) -> Iterator[tuple[Tensor, Tensor]]:
    """(tokens, mask) (Y, L) for each prompt: all its answers, after it."""
    tree = problems.task.tree
    for prompt in problems.prompts:
        yield join(prompt.expand(tree.num_completions, -1), tree.tokens, problems.task.eos)[:2]


def table(policy: Policy, task: TokenTask, prompts: Tensor) -> Tensor:
    """(R, X, N, V) float64: log-probabilities of every token after every prompt and prefix of the tree.

    Only the longest prefixes are sent through the policy; the shorter ones are places within them.
    """
    tree = task.tree
    longest = torch.nonzero((tree.lengths == tree.max_length) & (tree.tokens[:, -1] == 0))[:, 0]
    answers, nodes = tree.tokens[longest], tree.nodes[longest]
    out = None
    for x, prompt in enumerate(prompts):
        tokens, _, _ = join(prompt.expand(len(longest), -1), answers, task.eos)
        rows = tokens.to(policy.flat.device).expand(policy.R, -1, -1)
        log_p = torch.cat([policy.logits(part) for part in rows.split(CHUNK, 1)], 1).double().log_softmax(-1)
        log_p = log_p[:, :, len(prompt) :]
        if out is None:
            out = log_p.new_zeros(policy.R, len(prompts), tree.num_nodes, policy.vocabulary)
        out[:, x, nodes.flatten()] = log_p.flatten(1, 2)
    assert out is not None
    return out
