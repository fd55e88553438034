"""Train the behaviour policies of the MuJoCo data sets, once, with stable-baselines3.

    python scripts/train_actors.py train hopper --steps 3e6 --out actors_hopper
    python scripts/train_actors.py select hopper --out actors_hopper

`train` writes one `.npz` per evaluation into OUT; `select` keeps about ten of them as float16 tensors in
`envs/actors/<robot>.safetensors`: the best (expert), the first above a third of it (medium), and a spread of
the others; then it collects the robot's data sets and rewrites its rows of `docs/datasets.md`. Observation
normalisation is folded into the first layer, so that a snapshot is a plain MLP.

Hopper and Walker2d use PPO with normalised observations (minutes); HalfCheetah uses SAC (hours).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

ENVS = {"hopper": "Hopper-v5", "halfcheetah": "HalfCheetah-v5", "walker2d": "Walker2d-v5"}
ALGO = {"hopper": "ppo", "halfcheetah": "sac", "walker2d": "ppo"}
KEEP = 10


def linears(*modules) -> list[torch.nn.Linear]:
    return [m for module in modules for m in module.modules() if isinstance(m, torch.nn.Linear)]


def ppo_tensors(model, normalizer) -> dict[str, np.ndarray]:
    """tanh MLP, mean = last layer (clipped to the box), state-independent log std."""
    policy = model.policy
    layers = linears(policy.mlp_extractor.policy_net, policy.action_net)
    tensors = {}
    for i, layer in enumerate(layers):
        tensors[f"w{i}"] = layer.weight.detach().double().numpy().copy()
        tensors[f"b{i}"] = layer.bias.detach().double().numpy().copy()
    mean, std = normalizer.obs_rms.mean, np.sqrt(normalizer.obs_rms.var + normalizer.epsilon)
    tensors["w0"] = tensors["w0"] / std
    tensors["b0"] = tensors["b0"] - tensors["w0"] @ mean
    tensors["log_std"] = policy.log_std.detach().double().numpy().copy()
    return tensors


def sac_tensors(model) -> dict[str, np.ndarray]:
    """relu MLP, tanh-squashed mean head, state-dependent log std head."""
    actor = model.policy.actor
    tensors = {}
    layers = [*linears(actor.latent_pi), actor.mu]
    for i, layer in enumerate(layers):
        tensors[f"w{i}"] = layer.weight.detach().double().numpy().copy()
        tensors[f"b{i}"] = layer.bias.detach().double().numpy().copy()
    tensors["w_log_std"] = actor.log_std.weight.detach().double().numpy().copy()
    tensors["b_log_std"] = actor.log_std.bias.detach().double().numpy().copy()
    return tensors


def make_model(robot: str, seed: int):
    from stable_baselines3 import PPO, SAC
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    if ALGO[robot] == "ppo":
        env = VecNormalize(make_vec_env(ENVS[robot], n_envs=8, seed=seed), gamma=0.99)
        model = PPO(
            "MlpPolicy", env, n_steps=256, batch_size=64, n_epochs=10, gamma=0.99, gae_lambda=0.95,
            learning_rate=lambda left: 3e-4 * left, clip_range=0.2, ent_coef=0.0, max_grad_norm=0.5,
            policy_kwargs=dict(log_std_init=0.0), seed=seed, device="cpu",
        )  # fmt: skip
        return model, env
    env = make_vec_env(ENVS[robot], n_envs=1, seed=seed)
    model = SAC("MlpPolicy", env, learning_rate=1e-3, batch_size=256, learning_starts=5_000, seed=seed, device="cpu")
    return model, None


def train(robot: str, steps: int, every: int, out: Path, seed: int) -> None:
    import gymnasium
    from stable_baselines3.common.callbacks import BaseCallback

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    out.mkdir(parents=True, exist_ok=True)
    model, normalizer = make_model(robot, seed)
    test_env = gymnasium.make(ENVS[robot])

    def evaluate(episodes: int = 5) -> float:
        returns = []
        for episode in range(episodes):
            obs, _ = test_env.reset(seed=10_000 + episode)
            total, over = 0.0, False
            while not over:
                seen = normalizer.normalize_obs(obs) if normalizer is not None else obs
                action, _ = model.predict(seen, deterministic=True)
                obs, reward, terminated, truncated, _ = test_env.step(action)
                total, over = total + float(reward), terminated or truncated
            returns.append(total)
        return float(np.mean(returns))

    class Snapshots(BaseCallback):
        due = 0

        def _on_step(self) -> bool:
            if self.num_timesteps >= self.due:
                self.due += every
                value = evaluate()
                tensors = ppo_tensors(model, normalizer) if normalizer is not None else sac_tensors(model)
                np.savez(out / f"{self.num_timesteps:08d}.npz", **tensors)
                with open(out / "log.jsonl", "a") as log:
                    log.write(json.dumps({"steps": self.num_timesteps, "return": value}) + "\n")
                print(f"{robot} {self.num_timesteps} {value:.0f}", flush=True)
            return True

    model.learn(steps, callback=Snapshots())


def select(robot: str, out: Path) -> None:
    """Best, the first above a third of it, and an even spread (by return) of the rest, in order of training."""
    from safetensors.numpy import save_file

    from fenchel.envs import DATASETS
    from fenchel.envs.statistics import write as write_statistics

    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    rows = [r for r in rows if (out / f"{r['steps']:08d}.npz").exists()]
    best = max(range(len(rows)), key=lambda i: rows[i]["return"])
    medium = next(i for i, r in enumerate(rows) if r["return"] > rows[best]["return"] / 3)
    before = np.linspace(0, medium, min(medium + 1, KEEP // 2 + 1)).round().astype(int)
    after = np.linspace(medium, best, KEEP // 2 + 1).round().astype(int)
    chosen = sorted({*before.tolist(), *after.tolist(), best, medium})
    tensors, manifest = {}, []
    for k, i in enumerate(chosen):
        data = np.load(out / f"{rows[i]['steps']:08d}.npz", allow_pickle=False)
        tensors |= {f"{k}.{name}": data[name].astype(np.float16) for name in data.files}
        manifest.append(dict(rows[i], role={best: "expert", medium: "medium"}.get(i, "")))
    target = Path(__file__).resolve().parent.parent / "envs" / "actors"
    target.mkdir(parents=True, exist_ok=True)
    meta = {"robot": robot, "algorithm": ALGO[robot], "env": ENVS[robot], "snapshots": json.dumps(manifest)}
    save_file(tensors, target / f"{robot}.safetensors", metadata=meta)
    (target / f"{robot}.safetensors").chmod(0o644)
    print(json.dumps(manifest, indent=1))
    write_statistics([id for id in DATASETS if id.startswith(f"{robot}-")])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["train", "select"])
    parser.add_argument("robot", choices=sorted(ENVS))
    parser.add_argument("--steps", type=lambda s: int(float(s)), default=1_000_000)
    parser.add_argument("--every", type=lambda s: int(float(s)), default=25_000)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.command == "train":
        train(args.robot, args.steps, args.every, args.out, args.seed)
    else:
        select(args.robot, args.out)


if __name__ == "__main__":
    main()
