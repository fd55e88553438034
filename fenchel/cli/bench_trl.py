"""`bench tokens` against the trainers of TRL, when it is installed: GRPO and DPO steps on the model of the plain loop.

Their trainer runs as it is, with everything off that the step does not need (mixed precision, gradient checkpoints,
reports, saving). Every few steps it pauses for as many of ours, so that both are timed in turns; the first steps of
each do not count.
"""

from __future__ import annotations

import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from fenchel.cli import bench_tokens
from fenchel.cli.bench_updates import Row, Updates, row

if TYPE_CHECKING:
    from fenchel.cli.bench_tokens import Size

ROUNDS, WARM_UP, SECONDS = 5, 3, 0.8
QUIET = {
    "report_to": "none", "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True, "use_cpu": True,
    "bf16": False, "gradient_checkpointing": False, "learning_rate": bench_tokens.LR, "lr_scheduler_type": "constant",
}  # fmt: skip


def rows(size: Size, folder: str) -> Iterator[Row]:
    _quiet()
    cases: dict[str, tuple[Callable, Callable]] = {
        "GRPO step": (bench_tokens.grpo, grpo),
        "DPO step": (bench_tokens.dpo, dpo),
    }
    for name, (ours, theirs) in cases.items():
        mine, peer = in_turns(ours(size), theirs, size, folder)
        yield row(f"{name}, {size.name}", 1e3 * mine, 1e3 * peer, "ms", f"TRL {version('trl')}")


def in_turns(ours: Updates, trainer: Callable[..., Any], size: Size, folder: str) -> tuple[float, float]:
    """CPU seconds per step of each, medians over rounds."""
    from transformers import PrinterCallback

    ours(2)
    started = time.perf_counter()
    ours(2)
    steps = max(2, int(SECONDS / (time.perf_counter() - started)))
    times: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as out:
        made = trainer(size, folder, {**QUIET, "output_dir": out, "max_steps": WARM_UP + ROUNDS * steps})
        made.add_callback(turns(ours, steps, times))
        made.remove_callback(PrinterCallback)
        made.train()
    mine, theirs = (statistics.median(column) for column in zip(*times, strict=True))
    return mine, theirs


def turns(ours: Updates, steps: int, times: list[tuple[float, float]]) -> Any:
    """A callback that, after every `steps` of the trainer's, takes `steps` of ours and notes what both took."""
    from transformers import TrainerCallback

    class Turns(TrainerCallback):
        began = 0.0

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            done = state.global_step - WARM_UP
            if done > 0 and done % steps == 0:
                paused = time.process_time()
                ours(steps)
                times.append(((time.process_time() - paused) / steps, (paused - self.began) / steps))
            if done >= 0 and done % steps == 0:
                self.began = time.process_time()

    return Turns()


def words(tokens: Any, first: str = "") -> list[str]:
    return [first + " ".join(f"t{token}" for token in row) for row in tokens.tolist()]


def _quiet() -> None:
    from datasets.utils import logging as of_data
    from transformers.utils import logging

    warnings.simplefilter("ignore")
    of_data.disable_progress_bar()
    logging.set_verbosity_error()


def grpo(size: Size, folder: str, shared: dict[str, Any]) -> Any:
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [sum(token % 2 == 0 for token in row) / size.answer for row in completion_ids]

    config = GRPOConfig(
        per_device_train_batch_size=bench_tokens.PROMPTS * bench_tokens.GROUP, num_generations=bench_tokens.GROUP,
        max_completion_length=size.answer, beta=0.04, loss_type="grpo", top_k=0, **shared,
    )  # fmt: skip
    data = Dataset.from_dict({"prompt": words(bench_tokens.prompts(size)[0]) * 64})
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    return GRPOTrainer(
        bench_tokens.load(folder), reward_funcs=reward, args=config, train_dataset=data, processing_class=tokenizer
    )


def dpo(size: Size, folder: str, shared: dict[str, Any]) -> Any:
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    tokens = bench_tokens.pairs(size)[0]
    answers = tokens[:, :, size.prompt : -1]  # their trainer adds the end token
    columns = {
        "prompt": words(tokens[:, 0, : size.prompt]),
        "chosen": words(answers[:, 0], " "),
        "rejected": words(answers[:, 1], " "),
    }
    config = DPOConfig(per_device_train_batch_size=bench_tokens.PAIRS, beta=0.1, **shared)
    return DPOTrainer(
        bench_tokens.load(folder),
        bench_tokens.load(folder),
        args=config,
        train_dataset=Dataset.from_dict(columns),
        processing_class=AutoTokenizer.from_pretrained(folder),
    )
