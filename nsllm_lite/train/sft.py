"""Instruction tuning: a LoRA adapter from instruction data, thin over TRL's SFTTrainer.

TRL runs the loop, scales the loss (the sum over the answers' tokens of a step, divided by their number) and clips. Ours
are the base in NF4 with its adapter in fp32, the examples laid end to end (`examples.collate`), the order of the data,
the learning rate and the checkpoints, which are safetensors: the Trainer's own are pickles.
"""

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any

import torch
from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from transformers.utils import logging as transformers_logging

from nsllm_lite.artifact import interrupts
from nsllm_lite.artifact.json_files import read_json, write_json
from nsllm_lite.errors import UserError
from nsllm_lite.formats import weights
from nsllm_lite.formats.generation import stop_ids
from nsllm_lite.formats.rows import in_groups
from nsllm_lite.models import heldout
from nsllm_lite.models.causal import Batch, PackedLM, autocast
from nsllm_lite.models.device import Card
from nsllm_lite.models.execution import choose, memory, require_card
from nsllm_lite.recipe.train import Execution, Sft
from nsllm_lite.train import outputs, samples, setup
from nsllm_lite.train.examples import Example, collate
from nsllm_lite.train.fallback import Fallback
from nsllm_lite.train.order import shuffled
from nsllm_lite.train.plot import plot_losses
from nsllm_lite.train.processes import Processes
from nsllm_lite.train.sft_inputs import SftInputs, read_inputs, require_enough
from nsllm_lite.train.training_run import TrainingRun

if TYPE_CHECKING:
    from trl import SFTConfig, SFTTrainer


def sft(recipe: Sft, make_run: Callable[..., TrainingRun] = TrainingRun) -> dict[str, Any]:
    """Runs `recipe` to its end, continuing where an earlier run stopped; returns the manifest's results. Another
    `make_run` puts the same steps to another use (`find_lr.py`).

    Raises:
        UserError: an input is missing or does not fit the others, or too much of the data had to be left out.
        RunError: the loss or the gradient is not finite; the last good checkpoint stays.
        OutOfMemoryError: the card ran out of memory, with the recipe of a leaner execution.
    """
    started = time.time()
    inputs = read_inputs(recipe)
    card = setup.choose_card(recipe)
    run = make_run(recipe, inputs.hashes, recipe.evaluate_steps, started, Processes())
    if (results := run.finished()) is not None:
        return results
    for name, ledger in inputs.ledgers.items():
        if ledger.counts():
            print("\n".join(filter(None, (f"\n{name}", ledger.table(), ledger.words()))))
    require_enough(recipe, inputs)
    num_steps = count_steps(recipe, len(inputs.examples))
    how = choose_execution(recipe, inputs, card)
    weights.require_sound(inputs.base_dir)
    stop_ids(inputs.base_dir)  # of files that are read again at the end
    need = memory(recipe, inputs.size, longest(inputs), how, card)
    run.begin(
        num_steps,
        inputs,
        Fallback(recipe, how, sum(need.values()), card, partial(choose_execution, inputs=inputs, card=card)),
    )
    left_out = [line for name, ledger in inputs.ledgers.items() for line in ledger.lines(name)]
    write_json(run.out / "left_out.json", left_out)

    # The model and what is trained in it
    lm = PackedLM(setup.make_model(recipe, inputs, how))
    optimizer = setup.make_optimizer(recipe.optimizer, setup.parameter_groups(lm, recipe.optimizer))
    tuning = Tuning(recipe, inputs, lm, optimizer, how, run)
    tuning.resume()
    with run.steps() as steps:
        if steps:
            make_trainer(tuning).train()

    # What is left behind
    outputs.save_result(recipe, inputs, lm, run.out)
    tuning.write_answers()
    plot_losses(recipe, num_steps)
    results = summarise(tuning)
    measured = outputs.speed_and_memory(how, run.own_tokens, run.own_seconds)
    run.finish(results, measured)
    print_summary(tuning, results, measured)
    return results


@dataclass
class Tuning(TrainerCallback):
    """What TRL's loop calls at each step, and the order of the data."""

    recipe: Sft
    inputs: SftInputs
    lm: PackedLM
    optimizer: torch.optim.Optimizer
    how: Execution
    run: TrainingRun
    trainer: "SFTTrainer | None" = None
    lost_steps: int = 0  # that have overflowed in fp16

    # Data order and learning rate: functions of the step

    def places(self, first: int, last: int) -> list[int]:
        """Which examples the steps from `first` to before `last` train on, in shuffled epochs."""
        count = self.recipe.examples_per_step
        return shuffled(len(self.inputs.examples), self.recipe.seed, 0, first * count, last * count)

    def factor(self, done: int) -> float:
        """The learning rate after `done` steps of this process, as a share of the peak."""
        return self.run.lr_factor(min(self.run.first_step + done, self.run.num_steps - 1))

    def resume(self) -> None:
        loaded = self.run.resume(self.lm, self.optimizer, self.evaluate, self.carried)
        self.lost_steps, self._scaler_state = loaded.get("lost_steps", 0), loaded.get("scaler", {})

    def carried(self) -> dict[str, Any]:
        scaler = self.trainer.accelerator.scaler
        return {"lost_steps": self.lost_steps, "scaler": scaler.state_dict() if scaler is not None else {}}

    # Called by TRL's loop

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        scaler = self.trainer.accelerator.scaler
        if scaler is not None and self._scaler_state:
            scaler.load_state_dict(self._scaler_state)

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.run.begin_step()

    def on_substep_end(self, *args: Any, **kwargs: Any) -> None:
        interrupts.raise_if_requested()

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self.run.require_gradients()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Once a step, after it: its line, then evaluation and checkpoint where they are due."""
        if "loss" not in logs:  # the summary at the end
            return
        batch = [self.inputs.examples[place] for place in self.places(self.run.done, self.run.done + 1)]
        names = [example.name for example in batch]
        skipped = self.trainer.accelerator.optimizer_step_was_skipped  # fp16 has overflowed
        self.lost_steps += int(skipped)
        grad_norm = None if skipped else float(logs["grad_norm"])
        self.run.require_finite(logs["loss"], grad_norm or 0.0, "examples", names)
        num_tokens = sum(len(example.input_ids) for example in batch)
        self.run.log(logs["loss"], logs["learning_rate"], grad_norm, num_tokens, names)
        self.run.keep()

    # Held-out answers

    def evaluate(self) -> None:
        """Before the first step also what the model answers to the first examples of each held-out file in turn."""
        figures = {}
        if self.inputs.heldout:
            with autocast(self.how.device, self.recipe.compute_dtype):
                figures = score(self.lm, self.inputs.heldout, self.how.micro_batch_rows, self.how.device)
        self.run.log_heldout({"answers": figures})
        if self.run.done == 0:
            shown = in_turn(self.inputs.heldout, self.recipe.samples.count)
            prompts, right = [example.prompt for example in shown], [example.answer for example in shown]
            values = {"prompts": prompts, "right": right, "before": self._answer(prompts)}
            write_json(self.run.out / "samples.json", values)

    def write_answers(self) -> None:
        saved = read_json(self.run.out / "samples.json")
        head = ["# Answers to held-out prompts", "", "Greedy decoding; the prompts were not trained on."]
        after = self._answer(saved["prompts"])
        columns = {"Prompt": saved["prompts"], "Right": saved["right"], "Before": saved["before"], "After": after}
        samples.write_samples(self.run.out / "samples.md", self.inputs.tokenizer, head, columns)

    def _answer(self, prompts: list[list[int]]) -> list[list[int]]:
        with autocast(self.how.device, self.recipe.compute_dtype):
            return samples.continuations(self.lm, prompts, self.recipe.samples.new_tokens, self.inputs.end_id)


def make_trainer(tuning: Tuning) -> "SFTTrainer":
    """TRL's trainer over the steps that are left, with nothing saved, sent or printed by itself."""
    from datasets import Dataset
    from trl import SFTTrainer

    class Trainer(SFTTrainer):
        def _send_telemetry(self) -> None:
            """Nothing reaches the network."""

        def _get_train_sampler(self, *args: Any) -> torch.utils.data.Sampler:
            """The order is that of `places`."""
            return torch.utils.data.SequentialSampler(self.train_dataset)

    def collate_places(records: list[dict[str, int]]) -> dict[str, Any]:
        return for_trl(collate([tuning.inputs.examples[record["place"]] for record in records], tuning.how.device))

    transformers_logging.set_verbosity_error()
    trained = {name: parameter for name, parameter in tuning.lm.named_parameters() if parameter.requires_grad}
    in_fp32 = {name: parameter.data for name, parameter in trained.items()}
    trainer = Trainer(
        tuning.lm.model,
        args=trl_settings(tuning),
        data_collator=collate_places,
        train_dataset=Dataset.from_dict({"place": tuning.places(tuning.run.first_step, tuning.run.num_steps)}),
        processing_class=tuning.inputs.chat_tokenizer,
        callbacks=[tuning],
        optimizers=(tuning.optimizer, torch.optim.lr_scheduler.LambdaLR(tuning.optimizer, tuning.factor)),
    )
    for name, parameter in trained.items():  # TRL has rounded them to bf16 where the base is quantised
        parameter.data = in_fp32[name]
    dtypes = {p.dtype for p in trainer.model.parameters() if p.requires_grad}
    assert dtypes == {torch.float32}, f"trained parameters must be fp32, found {dtypes}"
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    tuning.trainer = trainer
    return trainer


def trl_settings(tuning: Tuning) -> "SFTConfig":
    from trl import SFTConfig

    recipe, how, run = tuning.recipe, tuning.how, tuning.run
    settings = SFTConfig(
        output_dir=recipe.out, max_steps=run.num_steps - run.first_step, seed=recipe.seed,
        per_device_train_batch_size=how.micro_batch_rows,
        gradient_accumulation_steps=recipe.examples_per_step // how.micro_batch_rows,
        max_grad_norm=recipe.optimizer.max_grad_norm,
        bf16=recipe.compute_dtype == "bfloat16", fp16=recipe.compute_dtype == "float16", use_cpu=how.device == "cpu",
        max_length=None, packing=False, dataset_kwargs={"skip_prepare_dataset": True}, remove_unused_columns=False,
        gradient_checkpointing=False,  # models.loading.recompute_layers has done it
        save_strategy="no", eval_strategy="no", report_to="none", disable_tqdm=True,
        logging_strategy="steps", logging_steps=1,
        logging_nan_inf_filter=False,  # which would hide that a loss is not finite
        dataloader_pin_memory=False,  # batches are made on the device
    )  # fmt: skip
    settings._n_gpu = min(1, settings.n_gpu)  # the model is on one card, however many are visible
    return settings


def for_trl(batch: Batch) -> dict[str, Any]:
    """A packed batch as TRL expects it: one row, labels unshifted, and the layout for our attention."""
    labels = torch.roll(batch.targets, 1)
    return {
        "input_ids": batch.input_ids[None],
        "labels": labels[None],
        "position_ids": batch.position_ids[None],
        "layout": batch.layout,
    }


def count_steps(recipe: Sft, num_examples: int) -> int:
    """Raises UserError where the warm-up takes all of them."""
    steps = recipe.steps or max(1, round(recipe.epochs * num_examples / recipe.examples_per_step))
    epochs = steps * recipe.examples_per_step / num_examples
    print(f"Data: {num_examples:,} examples; {steps} steps of {recipe.examples_per_step} show them {epochs:.2f} times")
    if recipe.schedule.warmup_steps >= steps:
        found = f"schedule.warmup_steps={recipe.schedule.warmup_steps} leaves no step of the {steps} of this data."
        raise UserError("sft-warmup-too-long", found, "Lower it, or give more epochs.")
    return steps


def choose_execution(recipe: Sft, inputs: SftInputs, card: Card) -> Execution:
    """The execution for this card, by the longest example; the examples of a step are cut into equal micro-batches.

    Raises:
        UserError: the model does not fit, it is fp16 on a CPU, or execution.micro_batch_rows does not divide
            examples_per_step.
    """
    require_card(recipe, inputs.size, card.device)
    if card.device == "cpu" and recipe.compute_dtype == "float16":
        found = "compute_dtype=float16 on the CPU: small gradients would be lost."
        needed = "The trainer scales the loss on a GPU only."
        raise UserError("sft-float16-on-cpu", found, needed, "Set compute_dtype=float32 or bfloat16 here.")
    requested, count = recipe.execution.micro_batch_rows, recipe.examples_per_step
    if requested and count % requested:
        found = f"execution.micro_batch_rows={requested} does not divide examples_per_step={count}."
        todo = f"Take one of {', '.join(str(d) for d in range(1, count + 1) if count % d == 0)}."
        raise UserError("sft-micro-batch-rows", found, todo)
    how = choose(recipe, inputs.size, longest(inputs), card)
    rows = max(divisor for divisor in range(1, how.micro_batch_rows + 1) if count % divisor == 0)
    return how.model_copy(update={"micro_batch_rows": rows})


def longest(inputs: SftInputs) -> int:
    """The tokens of the longest example, by which memory is planned."""
    return max(len(example.input_ids) for example in (*inputs.examples, *inputs.heldout))


def score(
    lm: PackedLM, examples: list[Example], micro_batch_rows: int, device: str
) -> dict[str, dict[str, float | int]]:
    """{source or "all": {"loss": nats a token of the answers, "tokens"}}."""
    batches = (collate(group, device) for group in in_groups(examples, micro_batch_rows))
    scores = heldout.score_batches(lm, batches, groups={})
    return {key: {"loss": of_key.loss, "tokens": of_key.targets} for key, of_key in scores.items()}


def in_turn(examples: list[Example], count: int) -> list[Example]:
    """The first `count` examples, one of each source in turn."""
    by_source: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        by_source[example.source].append(example)
    rounds = chain.from_iterable(zip_longest(*by_source.values()))
    return [example for example in rounds if example is not None][:count]


def summarise(tuning: Tuning) -> dict[str, Any]:
    lines, num_steps = tuning.run.metrics.lines(), tuning.run.num_steps
    shown = [tuning.inputs.examples[place] for place in tuning.places(0, num_steps)]
    return {
        "steps": num_steps,
        "lost_steps": tuning.lost_steps,
        "examples": len(tuning.inputs.examples),
        "epochs": len(shown) / len(tuning.inputs.examples),
        "tokens": lines[-1]["tokens"],
        "answer_tokens": sum(int(example.is_answer.sum()) for example in shown),
        "records": {name: ledger.counts() for name, ledger in tuning.inputs.ledgers.items()},
        **outputs.summarise_losses(lines),
    }


def print_summary(tuning: Tuning, results: dict[str, Any], measured: dict[str, Any]) -> None:
    outputs.print_summary(tuning.recipe, results, measured, f", {results['answer_tokens']:,} of them in answers")
    if results["lost_steps"]:
        print(f"  {results['lost_steps']} steps overflowed in fp16 and changed nothing")
    before, after = (results["heldout"][when]["answers"] for when in ("before", "after"))
    for source in before:
        print(f"  held-out answers {source:<16} loss {before[source]['loss']:.4f} -> {after[source]['loss']:.4f}")
    if tuning.inputs.end_id not in stop_ids(tuning.inputs.base_dir):
        print(
            f"  Answers end with {tuning.recipe.end_of_text!r}, at which the base does not stop by itself; `eval` and "
            f"`merge` know it from the adapter's training.json, others need eos_token_id={tuning.inputs.end_id}."
        )
