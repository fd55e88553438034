"""How far the mean gradient of each KL term is from that of KL(pi, ref) of whole answers: sums over all answers."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fenchel.llm import exact
from fenchel.llm.parts.advantages import Raw
from fenchel.llm.parts.aggregates import SequenceSum
from fenchel.llm.parts.regularisers import FDivergence, SequenceKL, TokenKL
from fenchel.llm.parts.rewards import OutcomeWithKL
from fenchel.llm.recipe import Recipe
from fenchel.llm.recipes.policy_gradient import REINFORCE
from fenchel.theory.rng import Rng
from fenchel.theory.tokens import TokenTree

TREE = TokenTree(3, 3, eos=0)


def methods() -> dict[str, Recipe]:
    """A KL term alone, with weight 1, by the name under which the table has it."""
    plain = replace(REINFORCE, aggregate=SequenceSum(), advantage=Raw())
    tokens = {
        "k1 as a loss": TokenKL(beta=1.0, estimate="k1", gradient="none"),
        "k2 as a loss": TokenKL(beta=1.0, estimate="k2", gradient="reverse"),
        "k3 as a loss": TokenKL(beta=1.0, estimate="k3", gradient="forward"),
        "k3 with the gradient of k2": TokenKL(beta=1.0, estimate="k3", gradient="reverse"),
        "k3 times pi / pi_old": TokenKL(beta=1.0, estimate="k3", gradient="forward", importance=True),
    }
    answers = {
        "k1 as a loss": SequenceKL(beta=1.0, estimate="k1", gradient="none"),
        "k2 as a loss": SequenceKL(beta=1.0, estimate="k2", gradient="reverse"),
        "k3 as a loss": SequenceKL(beta=1.0, estimate="k3", gradient="forward"),
        "k1 with the gradient of k2": SequenceKL(beta=1.0),
        "f'(pi / ref) log pi, f = kl": FDivergence(beta=1.0, divergence="kl"),
    }
    table = {f"token: {name}": replace(plain, regulariser=(part,)) for name, part in tokens.items()}
    table |= {f"answer: {name}": replace(plain, regulariser=(part,)) for name, part in answers.items()}
    return table | {"k1 in the reward": replace(plain, reward=OutcomeWithKL(beta=1.0))}


def problem(n: int = 8) -> exact.Enumerated:
    """n random policies and references over answers of 1 to 3 tokens, rewards 0: what is left is the KL term."""
    rng = Rng(0, "kl table")
    old, ref = (rng.normal(n, TREE.num_nodes, TREE.vocabulary).log_softmax(-1) for _ in range(2))
    return exact.Enumerated(TREE, old, ref, torch.zeros(n, TREE.num_completions, dtype=torch.float64))


def divergence_gradients(p: exact.Enumerated) -> tuple[Tensor, Tensor]:
    """(grad KL(pi, ref), grad KL(ref, pi)) of whole answers, by autograd on the definition."""
    forms = (lambda x: exact.kl_forms(p, x)["sequence"], lambda x: exact.kl_forms(p, x)["forward"])
    reverse, forward = (exact.gradient(form, p.old).flatten(1) for form in forms)
    return reverse, forward


def errors() -> dict[str, tuple[float, float, float]]:
    """name -> (|g - reverse| / |reverse|, |g - forward| / |forward|, cosine with reverse), means over the problems."""
    p = problem()
    reverse, forward = divergence_gradients(p)
    rows = {}
    for name, method in methods().items():
        g = exact.gradient(lambda x, method=method: exact.expected_loss(method, p, x, 1), p.old).flatten(1)  # type: ignore[misc]
        wrong = [(g - true).norm(dim=-1) / true.norm(dim=-1) for true in (reverse, forward)]
        cosine = torch.cosine_similarity(g, reverse, -1).nan_to_num()
        rows[name] = (float(wrong[0].mean()), float(wrong[1].mean()), float(cosine.mean()))
    return rows
