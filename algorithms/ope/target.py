"""The policy to be evaluated, by the name that the option `target` gives it.

    uniform                  uniform over the actions; for every task, and the default
    optimal                  of a tabular task's own MDP: its optimal policy,
    soft:<temperature>       softmax Q* / temperature,
    mixed:<epsilon>          the optimal policy with a share epsilon of its actions replaced by uniform ones
    <robot>-<role>           the actor that drives the MuJoCo data sets: hopper-medium, walker2d-expert, ...
    <file>.safetensors       a checkpoint of Fenchel: what its learner's `policy` does

A target is a policy as `Learner.act` wants it: `mode`, `sample` and `NOISE`; where actions are discrete `probs` has the
probabilities of all of them. It takes the evaluating learner's normalised observations and undoes their scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fenchel.algorithms import ALGORITHMS, checkpoint, get_algorithm
from fenchel.algorithms.learner import Learner
from fenchel.envs.spec import Discrete
from fenchel.errors import UserError, unknown
from fenchel.theory.mdp import TabularMDP
from fenchel.theory.solvers import solve

NAMES = ("uniform", "optimal", "soft:<temperature>", "mixed:<epsilon>", "<robot>-<role>", "<file>.safetensors")


class Choices:
    """A policy over discrete actions. law: states as the environment gives them (R, B, O) -> probabilities."""

    NOISE = "uniform"

    def __init__(self, learner: Learner, law: Callable[[Tensor], Tensor]):
        self.learner, self.law = learner, law

    def meet(self, mdp: TabularMDP | None) -> None:
        """Take from the task's MDP what the policy is made of."""

    def check(self) -> None:
        """Raises UserError while that is not known."""

    @torch.no_grad()
    def probs(self, obs: Tensor) -> Tensor:
        return self.law(_undo(self.learner, obs))

    def mode(self, obs: Tensor) -> Tensor:
        return self.probs(obs).argmax(-1)

    def sample(self, obs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """By the Gumbel-max trick: noise (R, B, n) uniform."""
        log_probs = self.probs(obs).log()
        action = (log_probs - torch.log(-torch.log(noise))).argmax(-1)
        return action, log_probs.gather(-1, action.unsqueeze(-1)).squeeze(-1)


class Table(Choices):
    """A policy over the states of a tabular task, NaN until `meet` has seen the task or a checkpoint is loaded."""

    def __init__(self, learner: Learner, name: str, solved: Callable[[TabularMDP], Tensor]):
        super().__init__(learner, lambda states: self.table[states.argmax(-1)])
        self.name, self.solved = name, solved
        self.table = torch.full((learner.spec.obs_dim, learner.spec.action.n), math.nan)
        self.table = self.table.to(learner.device, learner.dtype)

    def meet(self, mdp: TabularMDP | None) -> None:
        if mdp is None or mdp.P.shape[:-1] != self.table.shape:
            raise _untabular(self.name)
        if mdp.num_channels:
            raise UserError(f"target={self.name} needs one reward, and the task has {mdp.num_channels}.")
        self.table.copy_(self.solved(mdp.to(device="cpu", dtype=torch.float64)))

    def check(self) -> None:
        if bool(self.table.isnan().any()):
            raise UserError(f"target={self.name} is known only with its task: call bind(task) before fit.")

    def state(self) -> dict[str, Tensor]:
        return {"table": self.table}


class Moves:
    """A policy in a Box. act: (states as the environment gives them, noise or None for the mode) -> (R, B, dim)."""

    def __init__(self, learner: Learner, act: Callable[[Tensor, Tensor | None], Tensor], noise: str | None):
        self.learner, self.act, self.NOISE = learner, act, noise

    def meet(self, mdp: TabularMDP | None) -> None:
        """Nothing: what acts in a Box does not come from an MDP."""

    def check(self) -> None:
        """Nothing: it is known from the beginning."""

    @torch.no_grad()
    def mode(self, obs: Tensor) -> Tensor:
        return self.act(_undo(self.learner, obs), None).clamp(-1, 1)

    @torch.no_grad()
    def sample(self, obs: Tensor, noise: Tensor) -> tuple[Tensor, None]:
        """Actions alone; a density is never asked for. noise (R, B, dim) of law `NOISE`."""
        return self.act(_undo(self.learner, obs), noise).clamp(-1, 1), None


def make(learner: Learner) -> Choices | Moves:
    """What `learner.config.target` names. Raises UserError for a name that is none, or does not fit the spaces."""
    target, spec = learner.config.target, learner.spec
    name, _, number = target.partition(":")
    if target == "uniform":
        if spec.discrete:
            return Choices(learner, lambda s: s.new_full((*s.shape[:-1], spec.action.n), 1 / spec.action.n))
        box = spec.action.dim
        zero = lambda s: s.new_zeros((*s.shape[:-1], box))  # noqa: E731
        return Moves(learner, lambda s, noise: zero(s) if noise is None else 2 * noise - 1, "uniform")
    if target == "optimal" or name in ("soft", "mixed"):
        solved = _tabular(target, name, number)
        if not spec.discrete:
            raise _untabular(target)
        return Table(learner, target, solved)
    if target.endswith(".safetensors"):
        return _stored(learner, Path(target).expanduser())
    if target in _actors():
        return _native(learner, target)
    raise unknown("target", target, [*NAMES[:4], *_actors(), NAMES[-1]])


def _undo(learner: Learner, obs: Tensor) -> Tensor:
    return obs * learner.obs_std + learner.obs_mean


def _untabular(target: str) -> UserError:
    others = ", ".join(["uniform", *_actors(), NAMES[-1]])
    return UserError(f"target={target} is known on tabular tasks only; valid here are {others}.")


# --- tabular --------------------------------------------------------------------------------------------------------


def _tabular(target: str, name: str, number: str) -> Callable[[TabularMDP], Tensor]:
    """mdp -> (S, A), float64."""
    if target == "optimal":
        return lambda mdp: solve(mdp, "discounted").policy
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if name == "soft":
        if not 0 < value < math.inf:
            raise UserError(f"target={target} is not valid; soft takes a temperature above 0, such as soft:0.1.")
        return lambda mdp: torch.softmax(solve(mdp, "discounted").Q.masked_fill(~mdp.mask, -math.inf) / value, -1)
    if not 0 <= value <= 1:
        raise UserError(f"target={target} is not valid; mixed takes a share from 0 to 1, such as mixed:0.3.")
    uniform = lambda mdp: mdp.mask / mdp.mask.sum(-1, keepdim=True)  # noqa: E731
    return lambda mdp: (1 - value) * solve(mdp, "discounted").policy + value * uniform(mdp)


# --- actors of the MuJoCo data sets ---------------------------------------------------------------------------------


def _actors() -> list[str]:
    from fenchel.envs.mujoco import ROBOTS

    return [f"{robot}-{role}" for robot in ROBOTS for role in ("medium", "expert")]


def _native(learner: Learner, target: str) -> Moves:
    from fenchel.envs.mujoco import Actor, members

    robot, role = target.split("-")
    actor = Actor(robot, members(robot, role) * learner.R, learner.R, noise=0.0 if learner.config.greedy else None)
    actor.p = {name: tensor.to(learner.device) for name, tensor in actor.p.items()}
    actor.noise, sizes = actor.noise.to(learner.device), actor.sizes
    if learner.spec.discrete or (learner.spec.obs_dim, learner.spec.action.dim) != sizes:
        raise UserError(f"target={target} observes {sizes[0]} numbers and gives {sizes[1]}, which the task does not.")

    def act(states: Tensor, noise: Tensor | None) -> Tensor:
        mean, std = actor.law(states.float())
        raw = mean if noise is None else mean + std * noise.float()
        return actor.squash(raw).to(states.dtype)

    return Moves(learner, act, None if learner.config.greedy else "normal")


# --- checkpoints ----------------------------------------------------------------------------------------------------


def _stored(learner: Learner, path: Path) -> Choices | Moves:
    """One replica of a saved learner, repeated for every replica of the evaluating one."""
    tensors, header = checkpoint.read(path)
    rows = [key for key, row in ALGORITHMS.items() if row.endswith(f":{header.get('learner')}")]
    if not rows:
        raise UserError(f"{path} holds a {header.get('learner')}, which is no learner of this version.")
    which, count = learner.config.replica, len(header["seeds"])
    if which >= count:
        raise UserError(f"replica={which} is not in {path}; valid are 0 to {count - 1}.")
    cls, spec = get_algorithm(rows[0]), checkpoint.spec_from_json(header["spec"])
    if (spec.obs_dim, spec.action) != (learner.spec.obs_dim, learner.spec.action):
        raise UserError(f"{path} acts on other observations or actions than the task's, so it cannot be its target.")
    if cls.act is not Learner.act:
        raise UserError(f"{path} holds a {cls.__name__}, which does more than its policy when it acts; no target.")
    config = of_replica(cls.Config, header["config"], which, count)
    stored = cls(spec, config, [header["seeds"][which]] * learner.R, learner.device, learner.dtype)
    _spread(tensors, stored, which, count)
    policy, greedy = stored.policy, learner.config.greedy or stored.policy.NOISE is None
    if not isinstance(spec.action, Discrete):

        def act(states: Tensor, noise: Tensor | None) -> Tensor:
            obs = stored.normalise(states)
            return policy.mode(obs) if noise is None else policy.sample(obs, noise)[0]

        return Moves(learner, act, None if greedy else policy.NOISE)

    def law(states: Tensor) -> Tensor:
        obs = stored.normalise(states)
        if greedy:
            return torch.nn.functional.one_hot(policy.mode(obs), spec.action.n).to(states.dtype)
        return policy.log_probs(obs).exp()

    return Choices(learner, law)


def of_replica(cls: type, config: dict[str, Any], which: int, count: int) -> dict[str, Any]:
    """The options of one replica: a swept option is a list with one number each."""
    swept = {field.name for field in fields(cls) if "list[float]" in str(field.type)}
    return {k: v[which] if k in swept and isinstance(v, list) and len(v) == count else v for k, v in config.items()}


def _spread(tensors: dict[str, Tensor], stored: Learner, which: int, count: int) -> None:
    """Copy one replica's numbers into every replica of `stored`; what replicas share is copied as it is."""
    mine = stored.state_dict()
    for name, tensor in mine.items():
        given = tensors.get(name)
        if given is None or given.shape[1:] != tensor.shape[1:]:
            raise UserError(f"The tensor {name} of the target's checkpoint is missing or has another shape.")
        own = given.ndim >= 2 and given.shape[0] == count and tensor.shape[0] == stored.R
        tensor.copy_(given[which].expand_as(tensor) if own else given)
