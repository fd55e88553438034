"""What a learner must know about a token task: `Spec`, its end token and, of a small one, its prompts and answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fenchel.algorithms import checkpoint
from fenchel.envs.spec import Spec
from fenchel.theory.tokens import TokenTree


@dataclass(frozen=True)
class TokenSpec(Spec):
    """obs_dim: tokens of the longest sequence; action: Discrete(vocabulary). tree, prompts: of policy=tabular."""

    eos: int | None = None
    tree: TokenTree | None = None
    prompts: tuple[tuple[int, ...], ...] = ((),)


def to_json(spec: Spec) -> dict[str, Any]:
    """Of a spec without an end token: that of any learner."""
    found = checkpoint.spec_to_json(spec)
    if not isinstance(spec, TokenSpec):
        return found
    tree = spec.tree and [spec.tree.vocabulary, spec.tree.max_length, spec.tree.eos]
    return found | {"eos": spec.eos, "tree": tree, "prompts": [list(prompt) for prompt in spec.prompts]}


def from_json(data: Mapping[str, Any]) -> Spec:
    spec = checkpoint.spec_from_json(dict(data))
    if "eos" not in data:
        return spec
    tree = TokenTree(*data["tree"]) if data["tree"] else None
    prompts = tuple(tuple(prompt) for prompt in data["prompts"])
    return TokenSpec(**vars(spec), eos=data["eos"], tree=tree, prompts=prompts)
