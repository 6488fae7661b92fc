"""The same rows, model and optimizer through TRL's SFTTrainer and through our forward: the same losses."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from nsllm_lite.formats.rows import Rows
from nsllm_lite.models.causal import PackedLM, collate
from nsllm_lite.recipe.train import Optimizer
from nsllm_lite.train import setup
from tests.merge.make import ALL_LINEAR
from tests.models.make import add_lora, load_plain

STEPS = 3


@pytest.fixture
def rows(pico):
    opened = Rows(pico / "rows/papers/train")
    return [opened[i] for i in range(4)]


def adapted(pico):
    return add_lora(load_plain(pico / "base"), ALL_LINEAR, rank=8, alpha=16)


def our_losses(pico, rows) -> list[float]:
    lm = PackedLM(adapted(pico)).train()
    trained = [p for p in lm.parameters() if p.requires_grad]
    settings = Optimizer(name="adamw", learning_rate=5e-3, betas=(0.9, 0.999), weight_decay=0.0, max_grad_norm=1e9)
    optimizer, losses = setup.make_optimizer(settings, trained), []
    batch = collate(rows, "cpu")
    for _ in range(STEPS):
        loss = lm(batch) / batch.num_targets
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def trl_losses(model, columns: dict, folder: Path, tokenizer, optimizers=(None, None), **settings) -> list[float]:
    """Of three steps, in the order of `columns`; they and `settings` are those of TRL's dataset and config."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    class InOrder(SFTTrainer):
        def _get_train_sampler(self, *args):
            return torch.utils.data.SequentialSampler(self.train_dataset)

    config = SFTConfig(
        output_dir=str(folder), max_steps=STEPS, logging_steps=1, bf16=False, use_cpu=True, report_to="none",
        gradient_checkpointing=False, save_strategy="no", max_length=None, disable_tqdm=True, **settings,
    )  # fmt: skip
    dataset = Dataset.from_dict(columns)
    trainer = InOrder(model, args=config, train_dataset=dataset, processing_class=tokenizer, optimizers=optimizers)
    trainer.train()
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


def padding_free_losses(pico, rows, folder) -> list[float]:
    from transformers import AutoTokenizer

    model = adapted(pico)
    model.set_attn_implementation("sdpa")
    columns = {"input_ids": [row.input_ids.tolist() for row in rows], "seq_lengths": [row.doc_lengths for row in rows]}
    return trl_losses(
        model, columns, folder, AutoTokenizer.from_pretrained(pico / "base", pad_token="<1>"),
        per_device_train_batch_size=len(rows), learning_rate=5e-3, lr_scheduler_type="constant", weight_decay=0.0,
        max_grad_norm=1e9, optim="adamw_torch", padding_free=True, dataset_kwargs={"skip_prepare_dataset": True},
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore")
def test_three_steps_give_the_same_losses(pico, rows, tmp_path):
    ours, theirs = our_losses(pico, rows), padding_free_losses(pico, rows, tmp_path)
    assert ours == pytest.approx(theirs, abs=2e-4)  # TRL logs four decimals
    assert all(later < earlier for earlier, later in pairwise(ours))
    assert np.ptp(ours) > 0.01
