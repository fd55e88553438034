"""Scores of token policies: sampled ones against exact ones, exact ones against sums written out."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from fenchel.llm.evaluation import exactly, pass_at_k, table
from fenchel.llm.policies.tabular import Tabular
from fenchel.llm.tasks import make
from fenchel.llm.training import get_learner
from fenchel.theory.rng import Streams

SMALL = {"width": 16, "layers": 1, "heads": 2, "sft_steps": 20, "sft_lr": 1e-2, "pass_k": 3}


def learner(task, **options):
    made = get_learner("rloo")(task.spec, SMALL | options, seeds=[0, 1])
    made.bind(task)
    made.policy.flat.add_(0.05 * torch.sin(torch.arange(made.policy.flat.numel()).view_as(made.policy.flat)))
    return made


def test_pass_at_k_is_unbiased():
    """Its mean over all outcomes of n answers, by enumeration, is 1 - (1 - p)^k."""
    for p, (n, k) in itertools.product((0.0, 0.1, 0.7, 1.0), ((1, 1), (5, 1), (5, 3), (8, 8))):
        right = torch.arange(n + 1)
        law = torch.tensor([math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)], dtype=torch.float64)
        assert (law * pass_at_k(right, n, k)).sum() == pytest.approx(1 - (1 - p) ** k)


@pytest.mark.parametrize("name", ["sort", "maze"])
def test_exact_scores_are_sums_over_all_answers(name):
    """Against log-probabilities of whole sequences by the policy itself, one forward pass per prompt."""
    task = make(f"llm/{name}", enumerable=True)
    made, problems = learner(task), task.problems("test")
    found = exactly(made.policy, table(made.first_policy(), task, problems.prompts), task, problems, 3)
    tree = task.tree
    answers = torch.where(tree.mask, tree.tokens, -1)
    expected = {name: torch.zeros(2, dtype=torch.float64) for name in found}
    for x, prompt in enumerate(problems.prompts):
        tokens = torch.cat([prompt.expand(len(answers), -1), answers], 1).expand(2, -1, -1)
        mask = torch.cat([torch.zeros(len(answers), len(prompt), dtype=torch.bool), tree.mask], 1).expand(2, -1, -1)
        log_pi, log_first = (
            p.logp(tokens[: p.R], mask[: p.R]).double().sum(-1) for p in (made.policy, made.first_policy())
        )
        pi, right = log_pi.exp(), problems.verify(torch.full((len(answers),), x), answers)
        assert torch.allclose(pi.sum(-1), torch.ones(2, dtype=torch.float64), atol=1e-5)
        p = (pi * right).sum(-1)
        expected["pass_at_1"] += p
        expected["return_mean"] += p
        expected["pass_at_k"] += 1 - (1 - p) ** 3
        expected["length_mean"] += (pi * tree.lengths).sum(-1)
        expected["entropy"] += -(pi * log_pi).sum(-1)
        expected["kl"] += (pi * (log_pi - log_first)).sum(-1)
    for key, value in expected.items():
        assert torch.allclose(found[key], value / len(problems), rtol=1e-4, atol=1e-6), key
    assert found["kl"].min() > 1e-3


def test_a_tables_scores_are_its_own():
    task = make("llm/sort", enumerable=True)
    problems = task.problems("test")
    policy = Tabular(
        Streams([0]), task.tree, [tuple(row) for row in problems.prompts.tolist()], scale=1.0, dtype=torch.float64
    )
    assert torch.allclose(table(policy, task, problems.prompts), policy.log_policy(), atol=1e-12)


def test_sampled_scores_agree_with_exact_ones():
    """The same policy, judged as if the task could not be enumerated, over many answers: within 4 standard errors."""
    task = make("llm/sort", enumerable=True)
    made = learner(task, sft_steps=40, eval_answers=512)
    exact = made.scores(task, 8, 0)
    task.enumerable = False
    sampled = made.scores(task, 8, 0)
    runs = [made.scores(task, 8, step) for step in range(6)]
    for name in ("pass_at_1", "pass_at_k", "length_mean", "entropy", "kl", "return_mean"):
        values = torch.tensor([run[name] for run in runs], dtype=torch.float64)
        error = values.std(0) / len(runs) ** 0.5 + 1e-4
        assert ((values.mean(0) - torch.tensor(exact[name])).abs() < 5 * error).all(), name
    assert sampled["k"] == exact["k"] == [3, 3]
    assert runs[0] == sampled
    assert runs[1] != sampled
