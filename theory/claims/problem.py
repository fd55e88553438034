"""Problems as trees of tensors: selecting, rebuilding and printing them, whatever they are made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from torch import Tensor

from fenchel.theory.claims.claim import Problem
from fenchel.theory.mdp import TabularMDP


def map_leaves(problem: Problem, fn: Callable[[Tensor], Tensor]) -> Problem:
    """The same tree with `fn` applied to every tensor that has a problem axis."""
    if isinstance(problem, Tensor):
        return fn(problem) if problem.ndim else problem
    if isinstance(problem, TabularMDP):
        return problem.map(fn)
    if isinstance(problem, dict):
        return {k: map_leaves(v, fn) for k, v in problem.items()}
    if isinstance(problem, tuple | list):
        return type(problem)(map_leaves(v, fn) for v in problem)
    if dataclasses.is_dataclass(problem) and not isinstance(problem, type):
        values = {f.name: map_leaves(getattr(problem, f.name), fn) for f in dataclasses.fields(problem)}
        return dataclasses.replace(problem, **values)
    return problem


def leaves(problem: Problem) -> list[Tensor]:
    """Every tensor that has a problem axis, in a fixed order."""
    found: list[Tensor] = []
    map_leaves(problem, lambda t: found.append(t) or t)  # type: ignore[func-returns-value]
    return found


def rebuild(problem: Problem, values: list[Tensor]) -> Problem:
    """The inverse of `leaves`: the same tree with other tensors. MDPs are validated."""
    rest = iter(values)
    return validated(map_leaves(problem, lambda _: next(rest)))


def validated(problem: Problem) -> Problem:
    """`problem`; raises `UserError` when one of its MDPs is not an MDP."""
    if isinstance(problem, TabularMDP):
        problem.validate()
    elif isinstance(problem, dict):
        for value in problem.values():
            validated(value)
    elif isinstance(problem, tuple | list):
        for value in problem:
            validated(value)
    return problem


def take(problem: Problem, index: int) -> Problem:
    """The one problem `index`, as a batch of one."""
    return map_leaves(problem, lambda t: t[index : index + 1])


def source_code(problem: Problem, name: str = "problem") -> str:
    """Python that rebuilds a (small) problem: what a failing run prints and a test pastes."""
    lines = ["from functools import partial", "import torch"]
    literal = _literal(problem)
    if "TabularMDP(" in literal:
        lines.append("from fenchel.theory.mdp import TabularMDP")
    return "\n".join([*lines, "t = partial(torch.tensor, dtype=torch.float64)", f"{name} = {literal}"])


def _literal(value: Any) -> str:
    if isinstance(value, Tensor):
        text = repr(_short(value.tolist()))
        return f"t({text})" if value.is_floating_point() else f"torch.tensor({text})"
    if isinstance(value, dict):
        return f"dict({_keywords(value)})"
    if isinstance(value, tuple | list):
        return f"({', '.join(_literal(v) for v in value)},)"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return (
            f"{type(value).__name__}({_keywords({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})})"
        )
    return repr(value)


def _keywords(parts: dict[str, Any]) -> str:
    return ", ".join(f"{k}={_literal(v)}" for k, v in parts.items() if v is not None)


def _short(x: Any) -> Any:
    """Floats without the noise of the sixteenth digit, where that loses nothing."""
    if isinstance(x, list):
        return [_short(v) for v in x]
    if isinstance(x, float):
        return next((float(f"{x:.{d}g}") for d in (3, 6, 12) if float(f"{x:.{d}g}") == x), x) + 0.0  # no -0.0
    return x
