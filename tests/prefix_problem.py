"""One small problem of scored answers to two prompts, for learners on token prefixes."""

from __future__ import annotations

import torch

from fenchel.envs.spec import Discrete
from fenchel.llm.bridge.prefixes import Scored
from fenchel.llm.sequences import PAD, join, pad_left
from fenchel.llm.spec import TokenSpec
from fenchel.theory.rng import Streams
from fenchel.theory.tokens import TokenTree

TREE = TokenTree(3, 2, eos=0)
PROMPTS = ((1, 2, 2), (2, 1))
X, N, V, P, T = len(PROMPTS), TREE.num_nodes, TREE.vocabulary, 3, TREE.max_length
S = X * N
REWARD = Streams([3]).normal("reward", (X, TREE.num_completions), dtype=torch.float64)[0]
COST = Streams([4]).uniform("cost", (X, TREE.num_completions), dtype=torch.float64)[0]
SPEC = TokenSpec(P + T, Discrete(V), eos=0, tree=TREE, prompts=PROMPTS)
F64 = {"dtype": torch.float64}
SMALL = {"width": 16, "heads": 2, "layers": 2}


def answers():
    """(tokens, mask) (X * Y, P + T) of every completion of every prompt, and prefixes (S, P + T) of every state."""
    rows = TREE.tokens.masked_fill(~TREE.mask, PAD).repeat(X, 1)
    tokens, mask, _ = join(pad_left(PROMPTS).repeat_interleave(TREE.num_completions, 0), rows, 0)
    prefixes = [[*prompt, *prefix] for prompt in PROMPTS for prefix in ([], [1], [2])]
    width = [P - len(prompt) for prompt in PROMPTS for _ in range(N)]
    full = [[PAD] * w + row + [PAD] * (P + T - w - len(row)) for w, row in zip(width, prefixes, strict=True)]
    return tokens, mask, torch.tensor(full)


def scored():
    """Every completion once."""
    return Scored(*answers()[:2], REWARD.flatten(), COST.flatten())
