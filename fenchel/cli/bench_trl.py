"""The TRL side of `bench tokens`: its trainers on the same model and sizes. Steps are timed inside one training run."""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
from typing import Any, ClassVar

import torch

from fenchel.cli.bench_tokens import GROUP, LR, PROMPTS, Size, load, pairs, prompts, reward_of

PLAIN = {
    "learning_rate": LR,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0.0,
    "bf16": False,
    "use_cpu": True,
    "gradient_checkpointing": False,
    "report_to": [],
    "save_strategy": "no",
    "logging_strategy": "no",
    "disable_tqdm": True,
    "adam_beta2": 0.999,
}


def trl_grpo(size: Size, folder: str, steps: int) -> float:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [reward_of(torch.tensor(ids)).item() for ids in completion_ids]

    def make(steps: int) -> Any:
        config = GRPOConfig(
            output_dir=tempfile.mkdtemp(), per_device_train_batch_size=PROMPTS * GROUP, num_generations=GROUP,
            max_completion_length=size.answer, beta=0.04, temperature=1.0, loss_type="grpo", max_steps=steps, **PLAIN,
        )  # fmt: skip
        text = [{"prompt": words(row)} for row in prompts(size)[0].tolist()]
        return GRPOTrainer(
            model=folder, reward_funcs=reward, args=config, train_dataset=Dataset.from_list(text * 50),
            processing_class=tokenizer(folder),
        )  # fmt: skip

    return timed(make, steps)


def trl_dpo(size: Size, folder: str, steps: int) -> float:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    def make(steps: int) -> Any:
        tokens = pairs(size)[0]
        config = DPOConfig(
            output_dir=tempfile.mkdtemp(), per_device_train_batch_size=len(tokens), beta=0.1,
            max_length=size.prompt + size.answer + 1, max_steps=steps, **PLAIN,
        )  # fmt: skip
        rows = [
            {
                "prompt": words(chosen[: size.prompt]) + " ",
                "chosen": words(chosen[size.prompt :]),
                "rejected": words(rejected[size.prompt :]),
            }
            for chosen, rejected in tokens.tolist()
        ]
        return DPOTrainer(
            model=load(folder), ref_model=load(folder), args=config, train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer(folder),
        )  # fmt: skip

    return timed(make, steps)


def timed(make: Any, steps: int) -> float:
    """CPU seconds per step of a run of so many, from the end of its second one."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        times: ClassVar[list[float]] = []

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.times.append(time.process_time())

    trainer = make(steps + 2)
    trainer.add_callback(Clock())
    with contextlib.redirect_stdout(io.StringIO()):
        trainer.train()
    return (Clock.times[-1] - Clock.times[1]) / steps


def words(ids: list[int]) -> str:
    return " ".join(f"t{i}" for i in ids)


def tokenizer(folder: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)
