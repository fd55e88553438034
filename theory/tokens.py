"""Token problems small enough to enumerate: every completion of a vocabulary, as a prefix tree.

A `TokenTree` numbers the prefixes (nodes 0 .. N - 1 by length, the root is 0) and the completions (0 .. Y - 1). A
completion ends with the end token or at `max_length`. Prompts are a leading axis like any other: a policy is a table
of token log-probabilities (..., N, V), a reward is (..., Y). Nothing here samples: expectations are sums, over
completions or over all groups of G independent completions, so that bias and variance of an estimator are exact.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fenchel.errors import UserError
from fenchel.theory.mdp import TabularMDP
from fenchel.theory.sparse import SparseMDP

MAX_TUPLES = 10_000_000
MAX_COMPLETIONS = 1_000_000
CHUNK = 1 << 16


class TokenTree:
    """All token sequences over 0 .. vocabulary - 1 of at most `max_length` tokens; `eos` (if any) ends one early.

    tokens, nodes (Y, T)   the tokens of each completion and the prefix before each of them; 0 beyond the end
    mask (Y, T) bool       True on the completion's own tokens, the end token included; lengths (Y,) counts them
    child (N, V)           what a token leads to: node c if c < N, else the finished completion c - N
    depth (N,)             the length of each prefix
    """

    def __init__(self, vocabulary: int, max_length: int, eos: int | None = None, device: torch.device | str = "cpu"):
        if vocabulary < 1 or max_length < 1:
            raise UserError(f"vocabulary={vocabulary} and max_length={max_length} must be at least 1.")
        if eos is not None and not 0 <= eos < vocabulary:
            raise UserError(f"eos={eos} must be a token, 0 .. {vocabulary - 1}, or None.")
        inner = vocabulary - (eos is not None)
        if inner**max_length > MAX_COMPLETIONS:
            raise UserError(
                f"vocabulary={vocabulary}, max_length={max_length} has over {MAX_COMPLETIONS} completions to enumerate."
            )
        self.vocabulary, self.max_length, self.eos, self.device = vocabulary, max_length, eos, torch.device(device)
        self._grow(inner)

    def _grow(self, inner: int) -> None:
        V, T, eos = self.vocabulary, self.max_length, self.eos
        prefixes: list[tuple[int, ...]] = [()]
        finished: list[tuple[int, ...]] = []
        child: list[list[int]] = []
        nodes = sum(inner**d for d in range(T))
        for prefix in prefixes:  # grows while it is read
            row = []
            for token in range(V):
                sequence = (*prefix, token)
                if token == eos or len(sequence) == T:
                    row.append(nodes + len(finished))
                    finished.append(sequence)
                else:
                    row.append(len(prefixes))
                    prefixes.append(sequence)
            child.append(row)
        number = {prefix: i for i, prefix in enumerate(prefixes)}
        pad = [(*y, *([0] * (T - len(y)))) for y in finished]
        path = [[number[y[:t]] if t < len(y) else 0 for t in range(T)] for y in finished]
        self.child = torch.tensor(child, device=self.device)
        self.depth = torch.tensor([len(p) for p in prefixes], device=self.device)
        self.tokens, self.nodes = torch.tensor(pad, device=self.device), torch.tensor(path, device=self.device)
        self.lengths = torch.tensor([len(y) for y in finished], device=self.device)
        self._index = {y: i for i, y in enumerate(finished)}

    @property
    def num_nodes(self) -> int:
        return len(self.child)

    @property
    def num_completions(self) -> int:
        return len(self.tokens)

    @cached_property
    def mask(self) -> Bool[Tensor, "Y T"]:
        return torch.arange(self.max_length, device=self.device) < self.lengths[:, None]

    def index(self, sequence: Sequence[int]) -> int:
        """The number of a completion. Raises UserError for a sequence that is not one."""
        key = tuple(int(token) for token in sequence)
        if key not in self._index:
            raise UserError(f"sequence {key} is no completion: it must end with eos={self.eos} or at max_length.")
        return self._index[key]

    def sequence(self, y: int) -> tuple[int, ...]:
        return tuple(self.tokens[y, : int(self.lengths[y])].tolist())

    # -- policies ------------------------------------------------------------------------------------------------
    def token_log_probs(self, log_policy: Float[Tensor, "*b N V"]) -> Float[Tensor, "*b Y T"]:
        """log pi(token t | prefix) along every completion, 0 beyond its end."""
        return torch.where(self.mask, log_policy[..., self.nodes, self.tokens], 0.0)

    def sequence_log_probs(self, log_policy: Float[Tensor, "*b N V"]) -> Float[Tensor, "*b Y"]:
        """log pi(completion)."""
        return self.token_log_probs(log_policy).sum(-1)

    def scores(self, log_policy: Float[Tensor, "*b N V"]) -> Float[Tensor, "*b Y N V"]:
        """grad of log pi(completion) in the token logits: 1[the token was taken] - pi, on its prefixes."""
        Y, N, V = self.num_completions, self.num_nodes, self.vocabulary
        own = self.mask.to(log_policy.dtype)
        rows = torch.arange(Y, device=self.device)[:, None].expand_as(self.nodes)
        taken, visited = own.new_zeros(Y, N, V), own.new_zeros(Y, N, 1)
        taken.index_put_((rows, self.nodes, self.tokens), own, accumulate=True)
        visited[..., 0].index_put_((rows, self.nodes), own, accumulate=True)
        return taken - visited * log_policy.exp().unsqueeze(-3)

    def reach(self, log_policy: Float[Tensor, "*b N V"]) -> Float[Tensor, "*b N"]:
        """log-probability that a completion passes through each prefix."""
        log_reach = log_policy.new_full((*log_policy.shape[:-2], self.num_nodes), 0.0)
        for level in self._levels()[:-1]:
            inner = self.child[level] < self.num_nodes
            following = (log_reach[..., level, None] + log_policy[..., level, :])[..., inner]
            log_reach = log_reach.index_copy(-1, self.child[level][inner], following)
        return log_reach

    def conditionals(self, log_probs: Float[Tensor, "*b Y"]) -> Float[Tensor, "*b N V"]:
        """The token policy whose completions have these log-probabilities: the inverse of `sequence_log_probs`.

        An unnormalised input is normalised on the way. Every prefix must have a finite descendant.
        """
        mass = self._upward(log_probs, lambda x, level: x.logsumexp(-1))
        branches = torch.cat([mass, log_probs], -1)[..., self.child]
        return branches - mass[..., None]

    def values(
        self, log_policy: Float[Tensor, "*b N V"], reward: Float[Tensor, "*b Y"]
    ) -> tuple[Float[Tensor, "*b N"], Float[Tensor, "*b N V"]]:
        """(V, Q): the mean reward of completions from each prefix, and after each token."""
        policy = log_policy.exp()
        leaves = reward.expand(*torch.broadcast_shapes(log_policy.shape[:-2], reward.shape[:-1]), reward.shape[-1])
        V = self._upward(leaves, lambda q, level: (policy[..., level, :] * q).sum(-1))
        return V, torch.cat([V, leaves], -1)[..., self.child]

    def _upward(self, leaves: Tensor, reduce: Callable[[Tensor, Tensor], Tensor]) -> Float[Tensor, "*b N"]:
        """Node values from the leaves, level by level; `reduce(children (..., n, V), nodes (n,))` joins a node's."""
        value = leaves.new_zeros((*leaves.shape[:-1], self.num_nodes))
        for level in reversed(self._levels()):
            children = torch.cat([value, leaves], -1)[..., self.child[level]]
            value = value.index_copy(-1, level, reduce(children, level))
        return value

    def _levels(self) -> list[Tensor]:
        return [torch.nonzero(self.depth == d)[:, 0] for d in range(self.max_length)]

    # -- as decision processes -----------------------------------------------------------------------------------
    def sparse_mdp(self, reward: Float[Tensor, "X Y"], prompts: Float[Tensor, " X"] | None = None) -> SparseMDP:
        """States x N + node for every prompt x, then one end state; the reward comes with the last token.

        Undiscounted (discount 1), 0 in the end state. prompts (X,): their probabilities, default uniform.
        """
        X, N, V = len(reward), self.num_nodes, self.vocabulary
        ends, end = self.child >= N, X * N
        prompt = torch.arange(X, device=reward.device)[:, None, None]
        index = torch.where(ends, end, prompt * N + self.child)
        r = torch.where(ends, reward[:, (self.child - N).clamp(min=0)], 0.0)
        index = torch.cat([index.reshape(-1, V), index.new_full((1, V), end)])
        r = torch.cat([r.reshape(-1, V), r.new_zeros(1, V)])
        discount = torch.ones_like(r)
        discount[end] = 0.0
        mu0 = reward.new_zeros(X * N + 1)
        mu0[torch.arange(X) * N] = reward.new_full((X,), 1 / X) if prompts is None else prompts
        return SparseMDP(index[..., None], torch.ones_like(r)[..., None], r, mu0, discount)

    def mdp(self, reward: Float[Tensor, "X Y"], prompts: Float[Tensor, " X"] | None = None) -> TabularMDP:
        """`sparse_mdp`, dense: (X N + 1)^2 V numbers."""
        return self.sparse_mdp(reward, prompts).to_tabular()


def kl(log_p: Float[Tensor, "*b Y"], log_q: Float[Tensor, "*b Y"]) -> Float[Tensor, "*b"]:
    """KL(p, q) = sum p (log p - log q) over the last axis; where p is 0 nothing is added.

    Of completions (..., Y), or of the tokens at every prefix (..., N, V) -> (..., N): weighted with the probability
    exp `TokenTree.reach` of their prefix, the token divergences sum to that of the completions (chain rule).
    """
    p = log_p.exp()
    return torch.where(p > 0, p * (log_p - log_q), 0.0).sum(-1)


def kl_optimum(
    log_reference: Float[Tensor, "*b Y"], reward: Float[Tensor, "*b Y"], alpha: float
) -> tuple[Float[Tensor, "*b Y"], Float[Tensor, "*b"]]:
    """(log pi*, value). pi* = ref exp(r / alpha) / Z maximises E r - alpha KL(pi, ref) at alpha log Z."""
    if not alpha > 0:
        raise UserError(f"alpha={alpha} must be positive.")
    energy = log_reference + reward / alpha
    log_z = energy.logsumexp(-1)
    return energy - log_z[..., None], alpha * log_z


# -- groups ----------------------------------------------------------------------------------------------------------
def group_expectation(
    probs: Float[Tensor, "*b Y"], fn: Callable[[Int[Tensor, "M G"]], Tensor], size: int, *, symmetric: bool = False
) -> Tensor:
    """E fn(y_1, ..., y_G) over G independent completions of `probs`, by enumeration.

    fn(groups (M, G) int64) -> (*b, M, *event); returns (*b, *event). Differentiable in `probs` (the weights) and
    through fn. symmetric: fn does not depend on the order, so that multisets suffice (Y = G = 8: 6,435 for 16.8
    million). Raises UserError above 1e7 groups.
    """
    Y, batch = probs.shape[-1], probs.ndim - 1
    total = math.comb(Y + size - 1, size) if symmetric else Y**size
    if size < 1 or total > MAX_TUPLES:
        raise UserError(f"size={size} gives {total} groups of {Y} completions; valid are 1 to {MAX_TUPLES}.")
    answer: Tensor | float = 0.0
    for groups, multiplicity in _groups(Y, size, symmetric, probs.device):
        weight = probs[..., groups].prod(-1) * multiplicity.to(probs.dtype)
        value = fn(groups)
        weight = weight.reshape(*weight.shape, *([1] * (value.ndim - batch - 1)))
        answer = answer + (weight * value).sum(batch)
    return torch.as_tensor(answer)


def group_moments(
    probs: Float[Tensor, "*b Y"], fn: Callable[[Int[Tensor, "M G"]], Tensor], size: int, *, symmetric: bool = False
) -> tuple[Tensor, Tensor]:
    """(mean, variance) of fn, element-wise, each (*b, *event); the variance is computed about the exact mean."""
    mean = group_expectation(probs, fn, size, symmetric=symmetric)
    centre, axis = mean.detach(), probs.ndim - 1
    variance = group_expectation(
        probs, lambda groups: (fn(groups) - centre.unsqueeze(axis)).square(), size, symmetric=symmetric
    )
    return mean, variance


def _groups(Y: int, size: int, symmetric: bool, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Chunks of groups (M, G) with the number of orders (M,) that each stands for."""
    if not symmetric:
        place = Y ** torch.arange(size - 1, -1, -1, device=device)
        for start in range(0, Y**size, CHUNK):
            code = torch.arange(start, min(start + CHUNK, Y**size), device=device)
            yield code[:, None] // place % Y, torch.ones_like(code)
        return
    every = itertools.combinations_with_replacement(range(Y), size)
    log_factorial = torch.lgamma(torch.arange(size + 1, dtype=torch.float64, device=device) + 1)
    while chunk := list(itertools.islice(every, CHUNK)):
        groups = torch.tensor(chunk, device=device)
        counts = torch.nn.functional.one_hot(groups, Y).sum(1)
        yield groups, (log_factorial[size] - log_factorial[counts].sum(-1)).exp().round()


# -- preferences -----------------------------------------------------------------------------------------------------
def preference_pairs(
    probs: Float[Tensor, "*b Y"], preference: Float[Tensor, "*b Y Y"], *, distinct: bool = False
) -> Float[Tensor, "*b Y Y"]:
    """The law of (chosen, rejected): two independent completions of `probs`, labelled by P(y beats z).

    preference: `PreferenceGame.P`. Entry [y, z] is 2 probs(y) probs(z) P[y, z]; the entries sum to one. distinct:
    pairs of two equal completions are thrown away and the rest is normalised.
    """
    law = 2 * probs[..., :, None] * probs[..., None, :] * preference
    if distinct:
        law = law * (1 - torch.eye(law.shape[-1], dtype=law.dtype, device=law.device))
        law = law / law.sum((-2, -1), keepdim=True)
    return law
