"""What the evaluators share: options, batches with start states, expectations under the target, and the report.

Units. `estimate`, `interval`, `exact` and `error` are normalised values, (1 - gamma) E sum_t gamma^t r_t, in the units
of one reward; `value` and `exact_value` are the same divided by 1 - gamma, V at the start distribution. Neither knows
an episode's time limit: a time-out goes on, a terminal ends with value 0.

With mass c(s, a, s') = (1 - discount) / (1 - gamma), which is 1 where the step is not terminal, every occupancy
d(s, a) = (1 - gamma) sum_t gamma^t Pr(s_t = s, a_t = a) satisfies E_d c = 1, the flow summed over all pairs; without
terminals it says that d sums to 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fenchel.algorithms.config import Config
from fenchel.algorithms.learner import Learner
from fenchel.algorithms.networks import Critic
from fenchel.algorithms.ope.target import make
from fenchel.algorithms.sampler import Batch, Sampler, StartSampler
from fenchel.envs.dataset import OfflineDataset
from fenchel.envs.tabular import gamma_of
from fenchel.envs.task import Task
from fenchel.errors import UserError
from fenchel.theory.divergences import Divergence
from fenchel.theory.mdp import TabularMDP
from fenchel.theory.regularisers import get_regulariser
from fenchel.theory.solvers import solve

BETAS = (0.0, 0.99)  # of Adam in a game, whose players momentum would make circle each other
LEVEL = 0.95
CHUNK = 2048  # rows of the data that a report passes through the networks at once
SAMPLES = 10  # actions per first state where a report cannot sum over them; next states are many, and have one

Parts = Sequence[tuple[Tensor, Tensor]]  # an estimate as a sum of ratios of sums over episodes, (R, E) each


@dataclass
class EvaluatorConfig(Config):
    target: str = "uniform"
    """the policy to evaluate: uniform, optimal, soft:<number>, mixed:<number>, <robot>-<role>, <file>.safetensors"""
    replica: int = field(default=0, metadata={"range": (0, None)})
    """which replica of a checkpoint is the target"""
    greedy: bool = True
    """whether a checkpoint or an actor acts by its mode, as in evaluation, or samples"""


@dataclass(frozen=True)
class Exact:
    """values (R,): V of the target at the start distribution; occupancy (R, S, A): where it is before an end."""

    values: list[float]
    occupancy: Tensor


class Episodes(StartSampler):
    """Batches with first states of episodes, and the whole data for a report.

    members: for a bootstrap within each replica, batches also have "count" (R, 1 + members, B): how often the row's
    episode stands in each resample of episodes; the first member has every episode once.
    """

    def __init__(self, data: OfflineDataset, learner: Learner, members: int = 0):
        super().__init__(data, learner)
        learner.policy.check()
        self.data, self.members = data, members
        self.count = len(data.episode_starts)
        lengths = data.episode_ends - data.episode_starts
        self.episode = torch.repeat_interleave(torch.arange(self.count), lengths.cpu()).to(learner.device)
        self.resampled = self._resample(members) if members else None

    def _resample(self, members: int) -> Tensor:
        """(R, 1 + members, E) counts that sum to E."""
        learner = self.learner
        drawn = learner.rng.integers("bootstrap", self.count, (members, self.count))
        counts = torch.zeros(drawn.shape, device=learner.device, dtype=learner.dtype)
        counts.scatter_add_(2, drawn, torch.ones_like(counts))
        return torch.cat([torch.ones_like(counts[:, :1]), counts], 1)

    def __call__(self, step: int) -> Batch:
        batch = super().__call__(step)
        if self.resampled is not None:
            episode = self.episode[self.index(step)].unsqueeze(1).expand(-1, 1 + self.members, -1)
            batch["count"] = self.resampled.gather(2, episode)
        return batch


def chunks(sampler: Sampler) -> Iterator[Batch]:
    """All rows in order, in batches (R, n, ...)."""
    for rows in sampler.rows.split(CHUNK):
        yield sampler.unpack(rows.expand(sampler.learner.R, -1, -1))


# --- what a learner calls ---------------------------------------------------------------------------------------------


def prepare(learner: Learner) -> None:
    """What `setup` begins with. Raises UserError for a target or a discount that does not fit."""
    gammas = torch.as_tensor(learner.config.gamma).flatten().tolist()
    if not all(0 <= gamma < 1 for gamma in gammas):
        raise UserError(f"gamma={learner.config.gamma} is not valid; an evaluator takes it from 0 to below 1.")
    learner.expand("gamma")
    learner.policy, learner.exact = make(learner), None


def regulariser(name: str, free: bool) -> Divergence:
    """The regulariser of that name. Raises UserError for one that does not bound w, or is infinite where w is free."""
    f = get_regulariser(name)
    if math.isfinite(f.slope):
        raise UserError(f"regulariser={name} is not valid: it lets ratios grow without bound; power:2 or chi2 do not.")
    if free and not f.signed:
        raise UserError(f"regulariser={name} is not valid where a ratio may be negative; power:<p> and chi2 are.")
    return f


def bind(learner: Learner, task: Task) -> None:
    """Give a tabular target its table, and find the exact value where the task's MDP is known."""
    mdp = task.mdp
    learner.policy.meet(mdp)
    known = mdp is not None and not mdp.batch_shape and not mdp.num_channels
    learner.exact = exact(learner, mdp) if known and learner.spec.obs_dim == mdp.num_states else None


def exact(learner: Learner, mdp: TabularMDP) -> Exact:
    """By the solver, with the learner's own discount in place of the MDP's greatest one."""
    mdp = mdp.to(device="cpu", dtype=torch.float64)
    eye = torch.eye(mdp.num_states).expand(learner.R, -1, -1)
    policy = learner.policy.probs(learner.normalise(eye))[0].cpu().double()
    policy = policy / policy.sum(-1, keepdim=True)
    over = (mdp.kernel.sum(-1) == 0).all(-1) & (mdp.r == 0).all(-1)  # where a data set's episodes have ended
    going, answers = (~over).double().unsqueeze(-1), {}
    gammas = learner.h.gamma.flatten().tolist()
    for gamma in dict.fromkeys(gammas):
        scaled = TabularMDP(mdp.P, mdp.r, mdp.mu0, mdp.discount * (gamma / (gamma_of(mdp) or 1.0)), mdp.action_mask)
        answer = solve(scaled, "evaluation", policy=policy)
        answers[gamma] = float((mdp.mu0 * answer.V).sum()), answer.occupancy * going
    return Exact([answers[gamma][0] for gamma in gammas], torch.stack([answers[gamma][1] for gamma in gammas]))


def expectation(critic: Critic, learner: Learner, obs: Tensor, noise: Tensor | None) -> Tensor:
    """E_pi critic(s, a), (R, E, B): summed over discrete actions; in a Box at one action, from noise (R, B, dim)."""
    policy = learner.policy
    if learner.spec.discrete:
        return (critic.table(obs) * policy.probs(obs).unsqueeze(1)).sum(-1)
    return critic.of(obs, policy.mode(obs) if noise is None else policy.sample(obs, noise)[0])


def target_noise(learner: Learner, name: str, rows: int) -> Tensor | None:
    """This step's numbers for `expectation` at `rows` states; None where the target needs none."""
    if learner.spec.discrete or learner.policy.NOISE is None:
        return None
    return learner.noise(name, (rows, learner.spec.action.dim), learner.policy.NOISE)


def mass_of(batch: Batch, gamma: Tensor) -> Tensor:
    """c = (1 - discount) / (1 - gamma), (R, B)."""
    return (1 - batch["discount"]) / (1 - gamma)


# --- the report -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def average(critic: Critic, learner: Learner, obs: Tensor, name: str, chunk: int, samples: int = 1) -> Tensor:
    """E_pi critic(s, a), (R, E, B), for a report: in a Box the mean over actions that are the same in every report."""
    policy = learner.policy
    if learner.spec.discrete or policy.NOISE is None:
        return expectation(critic, learner, obs, None)
    draw, shape = getattr(learner.rng, policy.NOISE), (obs.shape[1], learner.spec.action.dim)
    parts = []
    for k in range(samples):
        noise = draw(f"report/{name}/{chunk}", shape, counter=k, dtype=learner.dtype)
        parts.append(expectation(critic, learner, obs, noise))
    return torch.stack(parts).mean(0)


def over(sampler: Sampler, function: Callable[[Batch, int], Tensor]) -> Tensor:
    """function(batch, number of the chunk) -> (R, ..., n) of all rows, (R, ..., N) in float64."""
    return torch.cat([function(batch, i).double() for i, batch in enumerate(chunks(sampler))], -1)


def per_episode(source: Episodes, values: Tensor) -> Tensor:
    """(R, N) of all rows -> sums (R, E) over episodes."""
    sums = values.new_zeros(len(values), source.count)
    return sums.index_add_(1, source.episode, values)


def ratios(parts: Parts) -> Tensor:
    """sum over parts of sum numerator / sum denominator, along the last axis."""
    return torch.stack([above.sum(-1) / below.sum(-1) for above, below in parts]).sum(0)


def resampled(learner: Learner, parts: Parts, draws: int) -> list[list[float]]:
    """Percentile intervals (R) of `ratios` over resamples of episodes; parts hold (R, E) each."""
    found, episodes = [], parts[0][0].shape[1]
    for draw in range(draws):
        chosen = learner.rng.integers("interval", episodes, (episodes,), counter=draw)
        found.append(ratios([(above.gather(1, chosen), below.gather(1, chosen)) for above, below in parts]))
    edges = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64, device=learner.device)
    return torch.stack(found, 1).quantile(edges, dim=1).T.tolist()


def weighted(source: Episodes, weight: Tensor, self_normalised: bool) -> tuple[Parts, dict[str, Tensor]]:
    """The estimate sum w r / sum w c, or / N, in parts; and what shows whether weights (R, N) can be trusted.

    mass: E_D[w c], which is 1 at the optimum. effective: (sum w)^2 / (N sum w^2), 1 for even weights.
    """
    gamma = source.learner.h.gamma
    reward, mass = (over(source, f) for f in (lambda b, _: b["reward"], lambda b, _: mass_of(b, gamma)))
    held = per_episode(source, weight * mass)
    below = held if self_normalised else per_episode(source, torch.ones_like(weight))
    effective = weight.sum(1).square() / (weight.square().sum(1) * weight.shape[1])
    facts = {"mass": held.sum(1) / weight.shape[1], "effective": effective}
    return [(per_episode(source, weight * reward), below)], facts


def report(learner: Learner, source: Episodes, estimate: Tensor, interval: list, **more: Tensor) -> dict[str, list]:
    """One entry per replica: the estimate in both units, its interval and, where the MDP is known, the truth beside it.

    covered: the share of the target's occupancy on pairs (s, a) that the data has; below 1 no method can know.
    """
    scale = 1 - learner.h.gamma.flatten().double()
    rows: dict[str, list] = {"estimate": estimate.tolist(), "interval": interval}
    rows["value"] = (estimate / scale).tolist()
    if learner.exact is not None:
        truth = scale * torch.tensor(learner.exact.values, dtype=torch.float64, device=scale.device)
        rows |= {"exact": truth.tolist(), "exact_value": learner.exact.values, "error": (estimate - truth).tolist()}
        rows["covered"] = covered(learner.exact, source.data).tolist()
    return rows | {name: value.tolist() for name, value in more.items()}


def covered(exact: Exact, data: OfflineDataset) -> Tensor:
    """(R,)."""
    seen = torch.zeros(exact.occupancy.shape[1:], dtype=torch.bool)
    seen[data.obs.argmax(-1).cpu(), data.action.cpu()] = True
    return (exact.occupancy * seen).sum((1, 2)) / exact.occupancy.sum((1, 2))
