"""The same rows, model and optimizer through TRL's SFTTrainer and through our forward: the same losses."""

from itertools import pairwise

import numpy as np
import pytest

from nsllm_lite.formats.rows import Rows
from nsllm_lite.models.causal import PackedLM, collate
from nsllm_lite.models.loading import load_base
from nsllm_lite.models.lora import add_adapter
from nsllm_lite.recipe.train import Adapter, Optimizer
from nsllm_lite.train import setup

STEPS = 3


@pytest.fixture
def rows(pico):
    opened = Rows(pico / "rows/papers/train")
    return [opened[i] for i in range(4)]


def adapted(pico):
    base = load_base(
        pico / "base", quantisation="none", double_quantisation=False, compute_dtype="float32", device="cpu"
    )
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    return add_adapter(base, Adapter(rank=8, alpha=16, rslora=False, targets=targets), "x", seed=0)


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


def trl_losses(pico, rows, folder) -> list[float]:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    dataset = Dataset.from_list([{"input_ids": r.input_ids.tolist(), "seq_lengths": r.doc_lengths} for r in rows])
    settings = SFTConfig(
        output_dir=str(folder), per_device_train_batch_size=len(rows), max_steps=STEPS, learning_rate=5e-3,
        lr_scheduler_type="constant", weight_decay=0.0, max_grad_norm=1e9, optim="adamw_torch", logging_steps=1,
        bf16=False, use_cpu=True, gradient_checkpointing=False, report_to="none", save_strategy="no",
        padding_free=True, dataset_kwargs={"skip_prepare_dataset": True}, max_length=None, disable_tqdm=True,
    )  # fmt: skip
    adapted_model = adapted(pico)
    adapted_model.set_attn_implementation("sdpa")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(pico / "base", pad_token="<1>")
    trainer = SFTTrainer(adapted_model, args=settings, train_dataset=dataset, processing_class=tokenizer)
    trainer.train()
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


@pytest.mark.filterwarnings("ignore")
def test_three_steps_give_the_same_losses(pico, rows, tmp_path):
    ours, theirs = our_losses(pico, rows), trl_losses(pico, rows, tmp_path)
    assert ours == pytest.approx(theirs, abs=2e-4)  # TRL logs four decimals
    assert all(later < earlier for earlier, later in pairwise(ours))
    assert np.ptp(ours) > 0.01
