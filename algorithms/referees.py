"""What a learner's options make of a finite data set: the method's own exact answer, and what was learned beside it.

A referee is the fixed point of the method's population equations on the empirical MDP, computed in NumPy and cvxpy by
`fenchel.theory.referees` from the options alone. It is where a learner whose networks are tables ends; of any other
network it says how far it is from one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fenchel.algorithms.learner import Learner
from fenchel.algorithms.networks import Greedy
from fenchel.algorithms.sampler import Batch
from fenchel.envs.dataset import OfflineDataset
from fenchel.envs.tabular import states_of
from fenchel.theory.mdp import TabularMDP
from fenchel.theory.objectives import policy
from fenchel.theory.referees import dice, offline
from fenchel.theory.referees.offline import Answer
from fenchel.theory.referees.transitions import F, Transitions

LONGEST = 0.995  # greatest gamma: fixed points are iterated, and take 1 / (1 - gamma) times as long


@dataclass(frozen=True)
class Problem:
    """A data set of one-hot states and integer actions as counts. start (S,): where episodes begin. features (S, P):
    what a linear network sees of each state, with the 1 of its bias; None for deeper networks."""

    data: Transitions
    start: np.ndarray
    features: np.ndarray | None

    @classmethod
    def of(cls, data: OfflineDataset, learner: Learner, gamma: float) -> Problem:
        """Raises ValueError where a row goes on to a state that no row leaves."""
        state, states = states_of(data.obs).numpy(), learner.spec.obs_dim
        discount = gamma * (~data.terminal).double().numpy()
        rows = (state, data.action.numpy(), data.reward.numpy(), states_of(data.next_obs).numpy(), discount)
        start = np.bincount(state[data.episode_starts.numpy()], minlength=states)
        features = np.c_[learner.normalise(torch.eye(states)).double().cpu().numpy(), np.ones(states)]
        counted = Transitions.count(*rows, states, learner.spec.action.n)
        return cls(counted, start / start.sum(), None if learner.config.hidden else features)


# --- the exact answer of one replica's options; None where nothing here has it ---------------------------------


def _iql(p: Problem, c: Any) -> Answer | None:
    temperature = c.temperature if c.extraction == "awr" else None
    return offline.iql(p.data, tau=c.expectile, inverse_temperature=temperature, max_weight=c.max_weight)


def _ivl(p: Problem, c: Any) -> Answer | None:
    temperature = c.temperature if c.extraction == "awr" else None
    return offline.ivl(p.data, tau=c.expectile, inverse_temperature=temperature, max_weight=c.max_weight)


def _f_dvl(p: Problem, c: Any) -> Answer | None:
    if c.variant != "corrected" or c.divergence not in {*F, "tv"}:
        return None
    options = {"divergence": c.divergence, "lam": c.lam, "temperature": c.temperature, "max_weight": c.max_weight}
    inverse = c.inverse_temperature if c.extraction == "awr" else None
    found = offline.f_dvl(p.data, inverse_temperature=inverse, **options)
    errors = p.data.backup(found.V) - found.Q[p.data.state, p.data.action]
    return found if np.abs(errors).max() <= c.delta else None  # beyond it Huber's loss has not the mean


def _awac(p: Problem, c: Any) -> Answer | None:
    return offline.awac(p.data, inverse_temperature=c.inverse_temperature, max_weight=c.max_weight)


def _cql(p: Problem, c: Any) -> Answer | None:
    return offline.cql(p.data, alpha=c.alpha)


def _odice(p: Problem, c: Any) -> Answer | None:
    options = {"divergence": c.divergence, "lam": c.lam, "temperature": c.temperature, "max_weight": c.max_weight}
    if c.variant != "paper" or c.divergence not in F:
        return None
    if c.gradient == "orthogonal":
        if p.features is None:
            return None  # its fixed point is one of the parametrisation
        return dice.orthogonal(p.data, p.features, eta=c.eta, batch=c.batch_size, **options)
    return {"semi": dice.semi, "true": dice.true}[c.gradient](p.data, **options)


def _optidice(p: Problem, c: Any) -> Answer | None:
    if (c.variant, c.residual_loss) != ("corrected", "mse") or c.divergence not in F:
        return None
    projected = c.extraction == "information_projection"  # onto beta w, w from a floor on
    bound = (
        {"max_weight": math.inf, "floor": 1e-3 * (c.divergence == "chi2")}
        if projected
        else {"max_weight": c.max_weight}
    )
    options = {"divergence": c.divergence, "temperature": c.temperature, **bound}
    return dice.optidice(p.data, p.start, gamma=c.gamma, **options)


# --- what a learner weighs the rows of a batch by, (R, K) ------------------------------------------------------


def _iql_weight(learner: Any, batch: Batch) -> Tensor:
    return learner.weight(learner.target(batch).amin(1) - learner.value(batch["obs"]))


def _awac_weight(learner: Any, batch: Batch) -> Tensor:
    h, advantage = learner.h, learner.critic(batch).amin(1) - learner.expected(learner.critic, batch["obs"], "policy")
    return policy.awr_weight(advantage, inverse_temperature=h.inverse_temperature, clip=h.max_weight)


def _f_dvl_weight(learner: Any, batch: Batch) -> Tensor:
    return learner.weight(learner.value(batch["obs"]), learner.target(batch).amin(1))


def _ivl_weight(learner: Any, batch: Batch) -> Tensor:
    return learner.weight(_residual(learner, batch, 1.0))


def _odice_weight(learner: Any, batch: Batch) -> Tensor:
    return learner.weight(_residual(learner, batch, learner.h.temperature))


def _optidice_weight(learner: Any, batch: Batch) -> Tensor:
    weight = learner.divergence.ratio(learner.residual(batch).squeeze(1) / learner.h.temperature)
    return weight if learner.h.extraction == "information_projection" else weight.clamp(max=learner.h.max_weight)


def _residual(learner: Any, batch: Batch, unit: Any) -> Tensor:
    v, following = learner.value(batch["obs"]).mean(1), learner.value(batch["next_obs"]).mean(1)
    return batch["reward"] / unit + batch["discount"] * following - v


@dataclass(frozen=True)
class Referee:
    """answer: of one replica's options. weight: of the rows of a batch, None where the policy is greedy."""

    answer: Callable[[Problem, Any], Answer | None]
    weight: Callable[[Any, Batch], Tensor] | None


REFEREES: dict[str, Referee] = {
    "AWAC": Referee(_awac, _awac_weight),
    "CQL": Referee(_cql, None),
    "FDVL": Referee(_f_dvl, _f_dvl_weight),
    "IQL": Referee(_iql, _iql_weight),
    "IVL": Referee(_ivl, _ivl_weight),
    "ODICE": Referee(_odice, _odice_weight),
    "OptiDICE": Referee(_optidice, _optidice_weight),
}


@dataclass(frozen=True)
class Learned:
    """V (R, S), policy (R, S, A), weight (R, S, A) or None, as learned; exact: an Answer or None per replica."""

    V: np.ndarray
    policy: np.ndarray
    weight: np.ndarray | None
    exact: list[Answer | None]
    data: Transitions


def examine(learner: Learner, data: OfflineDataset) -> Learned | None:
    """What the replicas learned of this data set, and what their options make of it; None where no replica has an
    exact answer: another learner or option, a gamma that is swept or above LONGEST, rows that go on to states which no
    row leaves, an iteration that does not settle.

    Policies, learned and exact, are uniform in states that no row leaves.
    """
    referee, gamma = REFEREES.get(type(learner).__name__), learner.config.gamma
    if referee is None or isinstance(gamma, list) or gamma > LONGEST or not learner.spec.discrete:
        return None
    if getattr(learner.config, "value_loss", "mse") != "mse":
        return None
    try:
        problem = Problem.of(data, learner, gamma)
    except ValueError:
        return None
    exact: dict[str, Answer | None] = {}
    configs = [_config(learner, i) for i in range(learner.R)]
    for config in configs:
        if repr(config) not in exact:
            exact[repr(config)] = _settled(referee, problem, config)
    if not any(exact.values()):
        return None
    rows = _rows(learner, problem.data)
    states = learner.normalise(torch.eye(learner.spec.obs_dim)).expand(learner.R, -1, -1)
    with torch.no_grad():
        weight = _per_pair(problem.data, referee.weight(learner, rows)) if referee.weight else None
        value, probs = _value(learner, states, problem.data), _policy(learner, states, problem.data)
    return Learned(value, probs, weight, [exact[repr(config)] for config in configs], problem.data)


def _settled(referee: Referee, problem: Problem, config: Any) -> Answer | None:
    try:
        return referee.answer(problem, config)
    except RuntimeError:
        return None


def _config(learner: Learner, i: int) -> Any:
    """The options of replica i: a number where replicas differ."""
    return replace(learner.config, **{name: getattr(learner.config, name)[i] for name in learner.swept})


def _rows(learner: Learner, data: Transitions) -> Batch:
    """The distinct transitions as a batch (R, K, ...)."""
    eye = learner.normalise(torch.eye(data.shape[0]))
    columns = {"obs": eye[data.state], "next_obs": eye[data.following], "action": torch.from_numpy(data.action)}
    for name, column in (("reward", data.reward), ("discount", data.discount)):
        columns[name] = torch.from_numpy(column).to(eye)
    return {name: column.to(learner.device).expand(learner.R, *column.shape) for name, column in columns.items()}


def _per_pair(data: Transitions, weight: Tensor) -> np.ndarray:
    return np.stack([data.mean(row) for row in weight.double().cpu().numpy()])


def _value(learner: Any, states: Tensor, data: Transitions) -> np.ndarray:
    """(R, S)."""
    if hasattr(learner, "value"):
        v = learner.value(states)
        v = v if v.ndim == 2 else v.mean(1)
        if hasattr(learner, "multiplier"):  # OptiDICE's constant is shared between the two
            v = v + learner.multiplier() / (1 - learner.config.gamma)
    elif isinstance(learner.policy, Greedy):
        q = learner.critic.table(states).mean(1)
        v = q.masked_fill(torch.from_numpy(data.mass == 0).to(q.device), -math.inf).amax(-1)
    else:
        v = learner.expected(learner.critic, states, "policy")
    return v.double().cpu().numpy()


def _policy(learner: Any, states: Tensor, data: Transitions) -> np.ndarray:
    """(R, S, A)."""
    count = learner.spec.action.n
    if isinstance(learner.policy, Greedy):
        probs = torch.nn.functional.one_hot(learner.policy.mode(states), count)
    else:
        probs = learner.policy.log_probs(states).exp()
    probs = np.where(data.visited[:, None], probs.double().cpu().numpy(), 1 / count)
    return probs / probs.sum(-1, keepdims=True)


def returns(mdp: TabularMDP, policy: np.ndarray) -> np.ndarray:
    """(...,): the discounted value from the start of policies (..., S, A), by one linear solve each."""
    kernel, reward, start = mdp.kernel.numpy(), mdp.r.numpy(), mdp.mu0.numpy()
    moves = np.eye(len(start)) - np.einsum("...sa,sat->...st", policy, kernel)
    return np.linalg.solve(moves, (policy * reward).sum(-1)[..., None])[..., 0] @ start
