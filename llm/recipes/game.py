"""Preference games: the policy plays against itself under P(y beats y'), which no reward need explain.

P_i is the mean chance of answer i to beat the opponent's answers; rho(y) = log pi(y) - log base(y). Exact versions on
enumerated answers stand in `fenchel.llm.exact`.
"""

from __future__ import annotations

from fenchel.llm.parts.advantages import LeaveOneOut, Raw
from fenchel.llm.parts.aggregates import SequenceMean
from fenchel.llm.parts.links import Square
from fenchel.llm.parts.ratios import ReferenceRatio, SequenceRatio
from fenchel.llm.parts.references import Fixed
from fenchel.llm.parts.regularisers import Proximity, SequenceKL
from fenchel.llm.parts.rewards import WinRate
from fenchel.llm.parts.scores import MirrorRatio
from fenchel.llm.parts.surrogates import Contrastive, Importance, SoftPreference, WinRateRegression
from fenchel.llm.recipe import PreferenceRecipe, Recipe

SPPO = Recipe(
    title="Self-play preference optimisation",
    paper=241,
    family="game",
    formula="(rho_i - eta (P_i - 1/2))^2, base old: a step of multiplicative weights up to its normaliser",
    departures="every answer of the group, where the paper trains on its best and worst one",
    reward=WinRate(),
    advantage=Raw(),
    ratio=SequenceRatio(),
    surrogate=WinRateRegression(),
    aggregate=SequenceMean(),
)

DNO = Recipe(
    title="Direct Nash optimisation",
    paper=249,
    family="game",
    formula="cross-entropy of sigmoid(P_i - P_j) and sigmoid(eta (rho_i - rho_j)), base old",
    departures="the exact loss on all pairs of the policy's own answers, without a teacher; the paper's practical form "
    "is DPO on pairs with a large margin",
    reward=WinRate(),
    advantage=Raw(),
    ratio=SequenceRatio(),
    surrogate=SoftPreference(),
    aggregate=SequenceMean(),
)

EGPO = Recipe(
    title="Extragradient preference optimisation by online IPO",
    paper=308,
    family="game",
    formula="(P_i - P_j - beta (rho_i - rho_j))^2 / (2 beta), base ref; each step is undone once, and P then taken "
    "against where it led",
    departures="online IPO times beta / 2: the gradient scale of the other regressions",
    steps="extragradient",
    reward=WinRate(),
    advantage=Raw(),
    ratio=ReferenceRatio(),
    surrogate=Contrastive(beta=0.1),
    aggregate=SequenceMean(),
)

INPO = PreferenceRecipe(
    title="Iterative Nash policy optimisation",
    paper=257,
    family="game",
    formula="(s_w - s_l - 1 / (2 tau))^2, s = log pi - share log ref - (1 - share) log pi_old; tau is the paper's eta, "
    "share its tau / eta",
    departures="pairs of two independent answers, which the identity needs; the paper takes best and worst of 8",
    score=MirrorRatio(),
    link=Square(tau=0.01),
    data="online",
)

NASH_MP = Recipe(
    title="Nash mirror prox by policy gradients",
    paper=158,
    family="game",
    formula="- rho(y) (P_i - mean of the others) + beta KL(pi, ref) + KL(pi, pi_old) / eta; each step is undone once, "
    "and P then taken against where it led",
    departures="one policy-gradient step for a proximal step, both KL terms by k2 of whole answers; the opponent is "
    "the half-step policy itself, without averaging (the paper's practical form was not seen)",
    steps="extragradient",
    reward=WinRate(),
    advantage=LeaveOneOut(),
    ratio=SequenceRatio(),
    surrogate=Importance(),
    aggregate=SequenceMean(),
    regulariser=(SequenceKL(beta=0.1), Proximity()),
    reference=Fixed(),
)
