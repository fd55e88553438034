"""Policy gradients on sampled answers: a baseline, a ratio with its clip, an aggregation, what holds the policy back.

Every recipe is the estimator of `fenchel.llm.recipe` with the parts below; `formula` is the loss of answer i to a
prompt, s_t the prefix of token t, rho a probability ratio to the policy that sampled.
"""

from __future__ import annotations

from dataclasses import replace

from fenchel.llm.parts.advantages import (
    GAE,
    BatchWhitened,
    Greedy,
    GroupMean,
    GroupZScore,
    LeaveOneOut,
    LengthWeighted,
    One,
    OptimalBaseline,
    Raw,
    Signed,
    Tracked,
)
from fenchel.llm.parts.aggregates import ConstantLength, SequenceMean, SequenceSum, TokenMean
from fenchel.llm.parts.critics import Critic
from fenchel.llm.parts.masks import DropTruncated, DropUniform, OnlyRight
from fenchel.llm.parts.ratios import GeometricRatio, NoRatio, SequenceRatio, TokenRatio
from fenchel.llm.parts.regularisers import Proximity, TokenKL
from fenchel.llm.parts.rewards import Outcome, OutcomeWithKL
from fenchel.llm.parts.surrogates import Clip, ClippedWeight, DualClip, Importance, Reinforce
from fenchel.llm.recipe import Recipe

REINFORCE = Recipe(
    title="REINFORCE, without a baseline",
    formula="- r_i sum_t log pi(y_t | s_t)",
    departures="Williams 1992 has a moving-average baseline as an option; none here",
    reward=Outcome(),
    advantage=Raw(),
    ratio=NoRatio(),
    surrogate=Reinforce(),
    aggregate=SequenceSum(),
)

RLOO = Recipe(
    title="REINFORCE leave-one-out",
    paper=294,
    formula="- (R_i - mean of the others' R) sum_t log pi(y_t | s_t), R = r - beta log(pi_old / ref)(y)",
    group_size=4,
    reward=OutcomeWithKL(beta=0.03),
    advantage=LeaveOneOut(),
    ratio=NoRatio(),
    surrogate=Reinforce(),
    aggregate=SequenceSum(),
)

REMAX = Recipe(
    title="ReMax: the greedy answer as baseline",
    paper=307,
    formula="- sum_t (sum_{s >= t} r_s - r(greedy)) log pi(y_t | s_t), the KL term inside r",
    group_size=1,
    reward=OutcomeWithKL(beta=0.05),
    advantage=Greedy(),
    ratio=NoRatio(),
    surrogate=Reinforce(),
    aggregate=SequenceSum(),
)

PPO = Recipe(
    title="Proximal policy optimisation with a critic",
    paper=232,
    formula="mean over tokens of - min(rho A, clip(rho) A) + coefficient (v - R)^2 / 2, A by GAE, KL inside r",
    departures="the critic's loss has half the square; advantages are whitened over the batch, not the minibatch; an "
    "answer that was cut off is not bootstrapped",
    group_size=1,
    reward=OutcomeWithKL(beta=0.05),
    advantage=GAE(),
    ratio=TokenRatio(),
    surrogate=Clip(),
    aggregate=TokenMean(),
    critic=Critic(),
)

VC_PPO = replace(
    PPO,
    title="PPO with decoupled GAE: Monte Carlo targets for the critic",
    paper=311,
    formula="PPO, the critic regressed on returns with lambda = 1, the actor's advantages with lambda = 0.95; no KL",
    departures="the critic is not pretrained on its own first",
    reward=Outcome(),
    advantage=GAE(lam_critic=1.0),
)

GRPO = Recipe(
    title="Group-relative policy optimisation",
    paper=189,
    formula="mean over tokens of - min(rho A_i, clip(rho) A_i) + beta k3, A_i = (r_i - mean) / std",
    departures="as published: k3 as a loss has the gradient of KL(ref, pi), and the z-score weighs prompts by 1 / std",
    reward=Outcome(),
    advantage=GroupZScore(),
    ratio=TokenRatio(),
    surrogate=Clip(),
    aggregate=SequenceMean(),
    regulariser=(TokenKL(),),
)

DR_GRPO = Recipe(
    title="GRPO done right: no division by std or length",
    paper=193,
    formula="(1 / T) sum_t - min(rho A_i, clip(rho) A_i), A_i = r_i - mean, T a constant",
    reward=Outcome(),
    advantage=GroupMean(),
    ratio=TokenRatio(),
    surrogate=Clip(),
    aggregate=ConstantLength(),
)

DAPO = Recipe(
    title="DAPO: clip-higher, token mean, no uniform groups, no cut-off answers",
    formula="sum over all tokens of - min(rho A_i, clip(rho, 0.8, 1.28) A_i) / their number, A_i = (r_i - mean) / std",
    departures="uniform groups are masked where the paper samples until a batch is full; no soft overlong penalty",
    reward=Outcome(),
    advantage=GroupZScore(),
    ratio=TokenRatio(),
    surrogate=Clip(clip_high=0.28),
    aggregate=TokenMean(),
    mask=(DropUniform(), DropTruncated()),
)

GSPO = Recipe(
    title="Group sequence policy optimisation",
    formula="- min(s A_i, clip(s) A_i), s = exp(mean over tokens of log rho), A_i = (r_i - mean) / std",
    reward=Outcome(),
    advantage=GroupZScore(),
    ratio=GeometricRatio(),
    surrogate=Clip(clip=3e-4, clip_high=4e-4),
    aggregate=SequenceMean(),
)

CISPO = Recipe(
    title="CISPO: the importance weight is clipped, no token loses its gradient",
    formula="sum over all tokens of - sg(min(rho, high)) A_i log pi(y_t | s_t) / their number",
    reward=Outcome(),
    advantage=GroupZScore(),
    ratio=TokenRatio(),
    surrogate=ClippedWeight(),
    aggregate=TokenMean(),
)

OPO = Recipe(
    title="On-policy optimisation with the optimal reward baseline",
    paper=334,
    formula="- (r_i - sum_j |y_j| r_j / sum_j |y_j|) sum_t log pi(y_t | s_t)",
    departures="the baseline contains the own answer, as published: biased by O(1 / G)",
    reward=Outcome(),
    advantage=LengthWeighted(),
    ratio=NoRatio(),
    surrogate=Reinforce(),
    aggregate=SequenceSum(),
)

OBLR_PO = Recipe(
    title="The baseline of least variance, weighted by squared gradient norms",
    paper=49,
    formula="- (r_i - sum_{j != i} |g_j|^2 r_j / sum_{j != i} |g_j|^2) sum_t log pi(y_t | s_t)",
    departures="the baseline alone: the step size stays the optimiser's; the own answer is left out, so that the mean "
    "is exact",
    reward=Outcome(),
    advantage=OptimalBaseline(),
    ratio=NoRatio(),
    surrogate=Reinforce(),
    aggregate=SequenceSum(),
)

REINFORCE_PP = Recipe(
    title="REINFORCE++: advantages whitened over the whole batch",
    paper=216,
    formula="mean over tokens of - min(rho A_t, clip(rho) A_t), A_t = (G_t - mean) / std over all tokens, KL inside r",
    departures="the variance is the population's; verl divides by n - 1",
    group_size=1,
    reward=OutcomeWithKL(beta=0.01),
    advantage=BatchWhitened(),
    ratio=TokenRatio(),
    surrogate=Clip(),
    aggregate=TokenMean(),
)

REINFORCE_PP_BASELINE = Recipe(
    title="REINFORCE++ with the group's mean as baseline",
    paper=216,
    formula="REINFORCE++ of r_i - group mean, with beta k2 as a loss",
    reward=Outcome(),
    advantage=BatchWhitened(group_mean=True),
    ratio=TokenRatio(),
    surrogate=Clip(),
    aggregate=TokenMean(),
    regulariser=(TokenKL(beta=0.01, estimate="k2", gradient="reverse"),),
)

GPG = Recipe(
    title="Group policy gradient",
    paper=212,
    formula="- alpha (r_i - mean) log pi(y_t | s_t), averaged over tokens; alpha = answers / answers in mixed groups",
    departures="alpha arises by leaving uniform groups out of the mean, exactly where answers are equally long; verl "
    "divides by the number of non-zero scores instead",
    reward=Outcome(),
    advantage=GroupMean(),
    ratio=NoRatio(),
    surrogate=Reinforce(),
    aggregate=TokenMean(),
    mask=(DropUniform(),),
)

RAFT = Recipe(
    title="Rejection sampling: maximum likelihood on the right answers",
    paper=234,
    formula="- sum_t log pi(y_t | s_t), averaged over answers with r > 0",
    departures="likelihood of whole answers, where released code averages over tokens",
    reward=Outcome(),
    advantage=One(),
    ratio=NoRatio(),
    surrogate=Reinforce(),
    aggregate=SequenceSum(),
    mask=(OnlyRight(),),
)

RAFT_PP = replace(
    RAFT,
    title="RAFT++: rejection sampling with a ratio and a clip",
    formula="mean over tokens of right answers of - min(rho, clip(rho))",
    departures="",
    ratio=TokenRatio(),
    surrogate=Clip(),
    aggregate=TokenMean(),
)

REINFORCE_REJ = Recipe(
    title="REINFORCE without uniform groups",
    paper=234,
    formula="mean over tokens of - min(rho r_i, clip(rho) r_i), groups with one reward left out",
    reward=Outcome(),
    advantage=Raw(),
    ratio=TokenRatio(),
    surrogate=Clip(),
    aggregate=TokenMean(),
    mask=(DropUniform(),),
)

NSR = Recipe(
    title="Negative sample reinforcement",
    paper=47,
    formula="mean over tokens of min(rho, clip(rho)) on wrong answers, 0 on right ones",
    reward=Outcome(),
    advantage=Signed(positive=0.0, negative=1.0),
    ratio=TokenRatio(),
    surrogate=Clip(),
    aggregate=TokenMean(),
)

PSR = replace(
    NSR,
    title="Positive sample reinforcement",
    formula="mean over tokens of - min(rho, clip(rho)) on right answers, 0 on wrong ones",
    advantage=Signed(positive=1.0, negative=0.0),
)

W_REINFORCE = replace(
    NSR,
    title="Weighted REINFORCE: negative samples and a little of the positive ones",
    formula="lambda PSR + NSR, lambda = 0.1",
    advantage=Signed(positive=0.1, negative=1.0),
)

SPO = Recipe(
    title="Single-stream policy optimisation: a tracked baseline",
    paper=81,
    formula="mean over tokens of - min(rho A_i, clip(rho) A_i), A_i = r_i - v(x) whitened over the batch",
    departures="prompts come uniformly, where the paper weighs them by sqrt(v (1 - v)) + 0.05",
    group_size=1,
    reward=Outcome(),
    advantage=Tracked(),
    ratio=TokenRatio(),
    surrogate=DualClip(clip_high=0.28, dual_clip=10.0),
    aggregate=TokenMean(),
)

MDPO = Recipe(
    title="Mirror descent policy optimisation on whole answers",
    paper=69,
    formula="- rho(y) A_i + k2(rho(y)) / eta, A_i = r_i - mean of the others",
    departures="the KL to the old policy by k2 on its own samples: equal to the second order in log rho",
    reward=Outcome(),
    advantage=LeaveOneOut(),
    ratio=SequenceRatio(),
    surrogate=Importance(),
    aggregate=SequenceMean(),
    regulariser=(Proximity(),),
)
