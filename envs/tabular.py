"""Any `TabularMDP` as a batched environment, and the exact returns that go with it.

Observations are one-hot states. A step pays the mean reward r(s, a) and ends the episode with probability
1 - discount(s, a, s') / gamma, where gamma is the greatest discount: a learner that discounts by gamma sees exactly the
MDP's objective. Entering a state with reward and discount 0 ends it too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fenchel.envs.dataset import OfflineDataset
from fenchel.envs.spec import Discrete, Spec
from fenchel.envs.task import Step
from fenchel.errors import UserError
from fenchel.theory import empirical
from fenchel.theory.empirical import EmpiricalMDP
from fenchel.theory.mdp import TabularMDP
from fenchel.theory.rng import Streams


def gamma_of(mdp: TabularMDP) -> float:
    """The discount that learners use: the greatest of the MDP."""
    return float(mdp.discount.max())


def continuation(mdp: TabularMDP) -> Tensor:
    """(S, A, S): the probability of going to s' without ending, kernel / gamma; 0 into states where all is over."""
    kernel = mdp.kernel
    over = (kernel.sum(-1) == 0).all(-1) & (_channels(mdp) == 0).all(-1).all(0)
    return torch.where(over, 0.0, kernel) / (gamma_of(mdp) or 1.0)


class TabularEnv:
    """n copies of one MDP; a BatchedEnv. `state` (n,) int64. A step of copy i is a function of its reset seed and age.

    cost: the MDP is a constrained one, r (2, S, A); channel 0 is the reward, and channel 1 goes to info["cost"].
    Raises UserError for a batch of MDPs, and for an action that does not exist in a copy's state.
    """

    def __init__(
        self,
        mdp: TabularMDP,
        n: int,
        *,
        max_steps: int = 100,
        cost: bool = False,
        device: torch.device | str = "cpu",
    ):
        if mdp.batch_shape:
            raise UserError(f"a tabular environment takes one MDP, not a batch of shape {tuple(mdp.batch_shape)}.")
        if cost and mdp.num_channels != 2:
            raise UserError(f"a constrained environment takes r (2, S, A), reward and cost, not {tuple(mdp.r.shape)}.")
        self.n, self.max_steps, self.device = n, max_steps, torch.device(device)
        self.mdp = mdp = mdp.to(device=device, dtype=torch.float64)
        self.cost = cost
        self.spec = Spec(mdp.num_states, Discrete(mdp.num_actions), {"cost": ()} if cost else {})
        self._start, self._next = _cumulative(mdp.mu0), _cumulative(mdp.P)
        self._survive = continuation(mdp) / mdp.P.clamp(min=torch.finfo(torch.float64).tiny)
        self.state = torch.zeros(n, dtype=torch.int64, device=device)
        self.t = torch.zeros(n, dtype=torch.int64, device=device)
        self._streams = Streams(self.state)

    def reset(self, seeds: Tensor, mask: Tensor | None = None) -> Tensor:
        seeds = seeds.to(self.device)
        mask = torch.ones(self.n, dtype=torch.bool, device=self.device) if mask is None else mask
        self._streams = Streams(torch.where(mask, seeds, self._streams.seeds), self.device)
        u = self._streams.uniform("tabular/start", (1,), dtype=torch.float64)
        start = torch.searchsorted(self._start.expand(self.n, -1).contiguous(), u, right=True)[:, 0]
        self.state = torch.where(mask, start, self.state)
        self.t = torch.where(mask, 0, self.t)
        return self._obs()

    def step(self, action: Tensor) -> Step:
        mdp, s, a = self.mdp, self.state, action.to(self.device)
        if mdp.action_mask is not None and not bool(mdp.action_mask[s, a].all()):
            i = int(torch.nonzero(~mdp.action_mask[s, a])[0])
            raise UserError(f"action {int(a[i])} does not exist in state {int(s[i])}.")
        u = self._streams.uniform("tabular/step", (2,), counter=self.t[:, None], dtype=torch.float64)
        self.state = torch.searchsorted(self._next[s, a], u[:, :1].contiguous(), right=True)[:, 0]
        self.t = self.t + 1
        terminal = u[:, 1] >= self._survive[s, a, self.state]
        reward = _channels(mdp)[:, s, a].T.float()
        info = {"cost": reward[:, 1]} if self.cost else {}
        reward = reward if mdp.num_channels and not self.cost else reward[:, 0]
        return Step(self._obs(), reward, terminal, ~terminal & (self.t >= self.max_steps), info)

    def _obs(self) -> Tensor:
        return torch.nn.functional.one_hot(self.state, self.mdp.num_states).float()


def _channels(mdp: TabularMDP) -> Tensor:
    """(K, S, A)."""
    return mdp.r if mdp.num_channels else mdp.r[None]


def _cumulative(probs: Tensor) -> Tensor:
    """Distribution function that ends in exactly 1, so that no successor of probability 0 is ever drawn."""
    total = probs.cumsum(-1)
    return total / total[..., -1:]


def visits(mdp: TabularMDP, policy: Tensor, max_steps: int) -> Tensor:
    """(S, A): the expected number of times that an episode of at most max_steps takes each pair; exact."""
    step = torch.einsum("sa,sat->st", policy, continuation(mdp))
    state, total = mdp.mu0, torch.zeros_like(mdp.mu0)
    for _ in range(max_steps):
        total, state = total + state, state @ step
    return total[:, None] * policy


def episode_return(mdp: TabularMDP, policy: Tensor, max_steps: int) -> float:
    """The exact undiscounted return of an episode of at most max_steps, as evaluation measures it."""
    return float((visits(mdp, policy, max_steps) * mdp.r).sum())


def states_of(obs: Tensor) -> Tensor:
    """(N,) int64 from one-hot rows (N, S). Raises UserError when a row is not one-hot."""
    state = obs.argmax(-1)
    if not bool((obs == torch.nn.functional.one_hot(state, obs.shape[-1])).all()):
        raise UserError("column obs must hold one-hot rows to be read as states.")
    return state


def empirical_mdp(
    data: OfflineDataset, gamma: float, num_actions: int | None = None, *, unvisited: str = "mask"
) -> EmpiricalMDP:
    """The maximum-likelihood MDP of a data set with one-hot observations and integer actions.

    See `fenchel.theory.empirical.empirical_mdp` for `unvisited`. Terminal rows have discount 0, time-outs gamma; mu0 is
    the law of the first states of episodes. Raises UserError for data of another kind.
    """
    if data.action.is_floating_point():
        raise UserError("column action must hold integers for an empirical MDP, and it holds floats.")
    state = states_of(data.obs)
    return empirical.empirical_mdp(
        state,
        data.action,
        data.reward,
        states_of(data.next_obs),
        gamma * (~data.terminal).double(),
        data.obs.shape[-1],
        num_actions or int(data.action.max()) + 1,
        start=state[data.episode_starts],
        unvisited=unvisited,
    )
