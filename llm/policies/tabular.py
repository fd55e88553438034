"""Policies on enumerated problems: logits per prompt and prefix, free ones or linear in given features.

    tabular       logits(x, prefix, v) = theta[x, prefix, v]
    log-linear    logits(x, prefix, v) = <features[x, prefix, v], theta>

Prompts and the prefixes of a `TokenTree` are states of one automaton, which reads a sequence token by token.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fenchel.algorithms.networks import Network
from fenchel.errors import UserError
from fenchel.llm.policies.policy import Policy, aligned
from fenchel.theory.rng import Streams
from fenchel.theory.tokens import TokenTree


class Tabular(Network, Policy):
    """One row of logits for every prompt and prefix; `features` (X, N, V, K) makes them linear in K parameters.

    prompts: X of them, none the beginning of another; by default there is one, without tokens. A sequence whose prompt
    is none of these has NaN. scale: the standard deviation of the parameters at first; 0 is the uniform policy.
    outputs: how many numbers a row has in the place of logits, for values of prefixes.
    """

    def __init__(
        self,
        rng: Streams,
        tree: TokenTree,
        prompts: Sequence[Sequence[int]] = ((),),
        *,
        features: Float[Tensor, "X N V K"] | None = None,
        outputs: int | None = None,
        name: str = "policy",
        scale: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ):
        X, N, V = len(prompts), tree.num_nodes, tree.vocabulary
        if features is not None and features.shape[:3] != (X, N, V):
            raise UserError(
                f"features are {tuple(features.shape)}; valid is (prompts, prefixes, tokens, K), {X, N, V}."
            )
        self.R, self.tree, self.prompts, self.vocabulary, self.eos = len(rng.seeds), tree, prompts, V, tree.eos
        self.context, self.states = max(map(len, prompts)) + tree.max_length, X * N
        self.width = aligned(self.states)
        self.features = None if features is None else features.to(rng.device, dtype).flatten(0, 2)
        self.outputs = outputs or V
        shape = (X * N, self.outputs) if features is None else (features.shape[-1],)
        super().__init__([shape], self.R, 1, torch.empty(0, device=rng.device, dtype=dtype))
        self.views(self.flat)[0].copy_(rng.normal(f"init/{name}", shape, dtype=dtype) * scale)
        self.next, self.begin = _automaton(tree, prompts, rng.device)

    def table(self) -> Float[Tensor, "R S V"]:
        """Logits of all S = X N states, prompt by prompt."""
        (theta,) = self.weights
        if self.features is None:
            return theta
        return (self.features * theta.unsqueeze(1)).sum(-1).view(self.R, self.states, self.vocabulary)

    def log_policy(self) -> Float[Tensor, "R X N V"]:
        """Token log-probabilities as `TokenTree` takes them."""
        return self.table().log_softmax(-1).unflatten(1, (len(self.prompts), -1))

    def assign(self, log_policy: Float[Tensor, "*R X N V"]) -> None:
        """Set the logits of a tabular policy."""
        if self.features is not None:
            raise UserError("A log-linear policy cannot be assigned a table.")
        self.flat[:, : self.states * self.vocabulary] = log_policy.flatten(-3).to(self.flat)

    def encode(self, ids: Int[Tensor, "R B L"]) -> Int[Tensor, "R B L"]:
        state = torch.full_like(ids[..., 0], self.begin)
        states = []
        for token in ids.unbind(-1):
            states.append(state)
            state = self._read(state, token)
        return torch.stack(states, -1)

    def head(self, code: Int[Tensor, "R M"]) -> Float[Tensor, "R M outputs"]:
        table, unknown = self.table(), len(self.next) - 1
        row = torch.where(code < self.states, code, 0).unsqueeze(-1).expand(-1, -1, self.outputs)
        return torch.where((code == unknown).unsqueeze(-1), torch.nan, table.gather(1, row))

    def hidden_of(self, code: Int[Tensor, "R B L"]) -> Float[Tensor, "R B L width"]:
        """One-hot in the states of the tree; 0 within the prompt and after the end."""
        state = torch.where(code < self.states, code, -1).unsqueeze(-1)
        return (state == torch.arange(self.width, device=code.device)).to(self.flat.dtype)

    def start(self, prompts: Int[Tensor, "R N P"], groups: int, max_new: int) -> tuple[dict, Tensor]:
        """Raises UserError for a prompt that the table does not have, or answers longer than the tree."""
        if max_new > self.tree.max_length:
            raise UserError(f"max_new={max_new} is over the {self.tree.max_length} tokens of the table's answers.")
        state = torch.full_like(prompts[..., 0] if prompts.shape[-1] else prompts.sum(-1), self.begin)
        for token in prompts.unbind(-1):
            state = torch.where(token < 0, state, self._read(state, token.clamp(min=0)))
        if (state >= self.states).any() or (state % self.tree.num_nodes != 0).any():
            raise UserError(f"A prompt is none of the {len(self.prompts)} that the table has.")
        cache = {"state": state.repeat_interleave(groups, 1)}
        return cache, self.head(cache["state"])

    def step(self, cache: dict, token: Int[Tensor, "R B"]) -> Float[Tensor, "R B V"]:
        cache["state"] = self._read(cache["state"], token)
        return self.head(cache["state"])

    def _read(self, state: Tensor, token: Tensor) -> Tensor:
        return self.next.view(-1)[state * self.vocabulary + token]


def _automaton(tree: TokenTree, prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, int]:
    """(what each state becomes on each token, the first state).

    States: x N + node of the tree; the proper beginnings of prompts; then "ended" and "unknown".
    """
    X, N, V = len(prompts), tree.num_nodes, tree.vocabulary
    root = {tuple(int(token) for token in prompt): x * N for x, prompt in enumerate(prompts)}
    beginnings = list(dict.fromkeys(prompt[:k] for prompt in root for k in range(len(prompt))))
    if len(root) < X or root.keys() & set(beginnings):
        raise UserError("The prompts of a table must differ, and none may be the beginning of another.")
    number = root | {prefix: X * N + i for i, prefix in enumerate(beginnings)}
    ended = X * N + len(beginnings)
    child = tree.child.to(device)
    trees = torch.where(child < N, child + torch.arange(X, device=device)[:, None, None] * N, ended)
    rows = [[number.get((*prefix, v), ended + 1) for v in range(V)] for prefix in beginnings]
    rows += [[ended] * V, [ended + 1] * V]
    return torch.cat([trees.flatten(0, 1), torch.tensor(rows, device=device)]), number[()]
