"""Token policies behind one face, `policy.Policy`. Nothing of Hugging Face is imported before a policy needs it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from fenchel.errors import UserError, unknown
from fenchel.theory.rng import Streams

if TYPE_CHECKING:
    from fenchel.llm.policies.policy import Policy
    from fenchel.theory.tokens import TokenTree

POLICIES = {
    "tabular": "tabular:Tabular",
    "transformer": "transformer:Transformer",
    "hf": "hugging_face:HuggingFace",
}


def make_policy(
    spec: str,
    rng: Streams,
    *,
    vocabulary: int | None = None,
    context: int | None = None,
    eos: int | None = None,
    tree: TokenTree | None = None,
    prompts: Sequence[Sequence[int]] = ((),),
    **options: Any,
) -> Policy:
    """`tabular` (of `tree` and `prompts`), `transformer` (of `vocabulary`, `context` and `eos`) or `hf:<path or name>`.

    options are the policy's own. Raises UserError for another spec, or what the policy needs and was not given.
    """
    kind, _, path = spec.partition(":")
    if kind not in POLICIES:
        raise unknown("policy", kind, POLICIES)
    module, name = POLICIES[kind].split(":")
    make = getattr(import_module(f"fenchel.llm.policies.{module}"), name)
    if kind == "hf":
        if not path:
            raise UserError("policy=hf has no model; valid is policy=hf:<path or name>.")
        return make(rng, path, eos=eos, **options)
    if kind == "tabular":
        if tree is None:
            raise UserError("policy=tabular needs a problem that can be enumerated, such as task.enumerable=true.")
        return make(rng, tree, prompts, **options)
    return make(rng, vocabulary, context, eos=eos, **options)
