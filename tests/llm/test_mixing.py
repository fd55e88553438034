"""Right answers against wrong ones, and solutions beside the policy's own answers: parts by hand, batches of a run."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from token_batches import rollout

from fenchel.algorithms.training import TrainConfig, train
from fenchel.llm import get_recipe
from fenchel.llm.options import with_options
from fenchel.llm.parts.demonstrations import Balanced
from fenchel.llm.parts.masks import AboveGate
from fenchel.llm.tasks import make
from fenchel.llm.training import get_learner
from fenchel.theory.objectives import regression

SMALL = {"width": 16, "layers": 1, "heads": 2, "sft_steps": 60, "sft_lr": 1e-2, "sft_batch": 64, "prompts": 16}


def test_a_discriminative_loss_by_hand():
    """Groups that lack either kind say nothing, and have no gradient."""
    score = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    label = torch.tensor([[1, 0, 0, 1], [0, 1, 1, 1], [0, 0, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0]]).double()
    for tau in (0.3, 1e6):
        loss = regression.discriminative(score, label, tau=tau)
        for i in range(3):
            s, right = score[i].detach().numpy(), label[i].numpy() > 0
            worst = tau * np.log(np.mean(np.exp(s[~right] / tau))) if tau < 1 else s[~right].mean()
            assert loss[i].item() == pytest.approx(worst - s[right].mean(), abs=1e-6)
        assert loss[3:].tolist() == [0.0, 0.0]
        (slope,) = torch.autograd.grad(loss.sum(), score)
        assert slope.isfinite().all()
        assert (slope[3:] == 0).all()


def test_a_trust_region_by_hand():
    data, live = rollout(N=3)
    (part,) = get_recipe("disco").regulariser
    gap = (data.old_logp - live["logp"].detach()) * data.mask
    for delta in (0.0, 0.5):
        loose = type(part)(beta=3.0, delta=delta)
        recipe = with_options(get_recipe("disco"), beta=0.0, delta=delta)
        without = recipe.loss(recipe.prepare(data), live["logp"])
        held = with_options(recipe, beta=3.0)
        found = held.loss(held.prepare(data), live["logp"]) - without
        kl = gap.flatten(2).sum(-1) / data.mask.flatten(2).sum(-1)
        torch.testing.assert_close(found, (1.5 * (kl - loose.delta).clamp(min=0).square()).mean(1))
    inside = with_options(get_recipe("disco"), delta=1e3)
    same = with_options(inside, beta=0.0)
    assert torch.equal(*(r.loss(r.prepare(data), live["logp"]) for r in (inside, same)))


def test_the_balance_of_two_losses_shifts():
    logp = torch.tensor([[[-0.5, -2.0, -9.0]]], dtype=torch.float64)
    mask, count = torch.tensor([[[True, True, False]]]), torch.tensor([2.0], dtype=torch.float64)
    part = Balanced(mu=0.8, mu_end=0.2)
    for progress, mu in ((0.0, 0.8), (0.5, 0.5), (1.0, 0.2)):
        assert part.loss(logp, mask, count, progress).item() == pytest.approx(mu / (1 - mu) * 1.25)
    p = np.exp([-0.5, -2.0])
    expected = (p * (1 - p) * [0.5, 2.0]).sum() / 2
    assert Balanced(mu=0.5, mu_end=0.5, phi=True).loss(logp, mask, count).item() == pytest.approx(expected)


def hybrid(**options):
    task = make("llm/sort", difficulty=2, train=64, test=16)
    made = get_learner("hpt")(task.spec, SMALL | options, seeds=[0, 1])
    made.bind(task)
    return made, task


def test_solutions_are_imitated_where_every_answer_is_wrong():
    made, task = hybrid()
    source = made.source(task)
    batch = source(0)
    tokens, mask = batch.demonstrations
    hopeless = (batch.prepared.data.reward == 0).all(-1)
    assert 0 < hopeless.sum() < hopeless.numel()
    assert torch.equal(mask.any(-1), hopeless)
    assert (batch.prepared.weight[hopeless] == 0).all()
    prompt = source.problems.prompts.shape[1]
    assert torch.equal(tokens[..., :prompt], batch.prepared.data.tokens[:, :, 0, :prompt])
    solved = source.problems.verify(source.ids, torch.where(tokens >= 0, tokens, -1)[..., prompt:])
    assert (solved == 1).all()


def test_a_gate_is_a_share_of_right_answers():
    reward = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]]])
    for gate, kept in ((0.0, [False, True, True]), (0.5, [False, False, True])):
        assert AboveGate(gate=gate)(None, reward)[0, :, 0].tolist() == kept


def test_a_hybrid_run_resumes_to_the_same_bits(tmp_path):
    loop = {"eval_every": 3, "log_every": 1, "checkpoint_every": 3, "eval_episodes": 0, "final_episodes": 0}
    flats = []
    for name, stops in (("whole", (6,)), ("parts", (3, 6))):
        for i, stop in enumerate(stops):
            made, task = hybrid(epochs=2, minibatches=2)
            train(task, made, TrainConfig(steps=stop, **loop), folder=tmp_path / name, resume=bool(i))
        flats.append(made.policy.flat.clone())
    assert torch.equal(*flats)
