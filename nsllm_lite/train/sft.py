"""Instruction tuning: a LoRA adapter from instruction data, thin over TRL's SFTTrainer.

TRL runs the loop, scales the loss (the sum over the answers' tokens of a step, divided by their number) and clips. Ours
are the base in NF4 with its adapter in fp32, the examples laid end to end (`examples.collate`), the order of the data,
the learning rate and the checkpoints, which are safetensors: the Trainer's own are pickles.
"""

import math
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from nsllm_lite import terminal
from nsllm_lite.artifact import interrupts
from nsllm_lite.artifact.disk import GIB, require_disk
from nsllm_lite.artifact.json_files import read_json, write_json
from nsllm_lite.artifact.step import begin, finish, is_finished, read_manifest
from nsllm_lite.errors import RunError, UserError
from nsllm_lite.formats import weights
from nsllm_lite.formats.rows import in_groups
from nsllm_lite.models.causal import Batch, PackedLM, autocast
from nsllm_lite.models.device import find_device, require_dtype
from nsllm_lite.models.execution import choose, require_card
from nsllm_lite.models.heldout import evaluating
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.train import Execution, Sft
from nsllm_lite.train import checkpoint, cpt, guards, outputs, samples
from nsllm_lite.train.examples import Example, collate
from nsllm_lite.train.order import shuffled
from nsllm_lite.train.plot import plot_losses
from nsllm_lite.train.sft_inputs import SftInputs, read_inputs, require_enough
from nsllm_lite.train.spikes import SpikeLog

if TYPE_CHECKING:
    from trl import SFTTrainer


def sft(recipe: Sft) -> dict[str, Any]:
    """Runs `recipe` to its end, continuing where an earlier run stopped; returns the manifest's results.

    Raises:
        UserError: an input is missing or does not fit the others, or too much of the data had to be left out.
        RunError: the loss or the gradient is not finite; the last good checkpoint stays.
    """
    started = time.time()
    out = Path(recipe.out)
    inputs = read_inputs(recipe)
    identity = recipes.identity(recipe)
    device, card_bytes, card = find_device(recipe.execution.device)
    require_dtype(recipe.compute_dtype, device)
    if is_finished(out, identity, inputs.hashes):
        print(f"{out}: finished, skipped")
        return read_manifest(out)["results"]
    for name, ledger in inputs.ledgers.items():
        if ledger.counts():
            print(f"\n{name}\n{ledger.table()}")
    require_enough(recipe, inputs)
    num_steps = count_steps(recipe, len(inputs.examples))
    how = choose_execution(recipe, inputs, device, card_bytes)
    weights.require_sound(inputs.base_dir)
    begin(out, identity, inputs.hashes)
    cpt.freeze_execution(out, card, how)
    outputs.keep_base(out, inputs.base_dir)
    require_disk(out, outputs.output_bytes(recipe, inputs.size), "checkpoints and the result")
    left_out = [{"data": name, **line} for name, ledger in inputs.ledgers.items() for line in ledger.names]
    write_json(out / "left_out.json", left_out)

    # The model and what is trained in it
    lm = PackedLM(cpt.make_model(recipe, inputs, how))
    optimizer = cpt.make_optimizer(recipe.optimizer, cpt.parameter_groups(lm, recipe.optimizer))
    for group in optimizer.param_groups:
        group["lr"] = group["peak"]
    tuning = Tuning(recipe, inputs, lm, optimizer, how, num_steps)
    tuning.resume()

    if tuning.first_step < num_steps:
        with interrupts.deferred(tuning.save_last_step):
            make_trainer(tuning).train()
    tuning.progress_bar.close()

    # What is left behind
    outputs.save_result(recipe, inputs, lm, out)
    tuning.write_answers()
    curves = {"answers": "held-out answers"}
    plot_losses(out / "metrics.jsonl", out / "loss.png", f"{out}: {num_steps} steps", curves)
    results = summarise(tuning)
    measured = {
        "train_tokens_per_s": tuning.speed and round(tuning.speed, 1),
        "peak_memory_gib": round(outputs.peak_memory_bytes(how.device) / GIB, 2),
        "execution": how.model_dump(mode="json"),
    }
    finish(out, "sft", identity, inputs.hashes, results, started, measured)
    print_summary(tuning, results, measured)
    return results


class Tuning:
    """One run: what TRL's loop calls after each step, and the state that a checkpoint carries."""

    def __init__(
        self,
        recipe: Sft,
        inputs: SftInputs,
        lm: PackedLM,
        optimizer: torch.optim.Optimizer,
        how: Execution,
        num_steps: int,
    ):
        self.recipe, self.inputs, self.lm, self.optimizer = recipe, inputs, lm, optimizer
        self.how, self.num_steps = how, num_steps
        self.out = Path(recipe.out)
        self.log = outputs.Log(self.out / "metrics.jsonl")
        self.first_step = self.done = self.saved = self.lost_steps = 0
        self.trainer: SFTTrainer | None = None
        self.progress_bar = None
        self._unreached = {name: p for name, p in lm.named_parameters() if p.requires_grad}
        self._seconds, self._tokens, self._step_started = 0.0, 0, 0.0

    # Data order and learning rate: functions of the step

    def places(self, step: int) -> list[int]:
        """Which examples `step` (from 0) trains on, in shuffled epochs."""
        count = self.recipe.examples_per_step
        return shuffled(len(self.inputs.examples), self.recipe.seed, 0, step * count, (step + 1) * count)

    def examples(self, step: int) -> list[Example]:
        return [self.inputs.examples[place] for place in self.places(step)]

    def tokens_until(self, step: int) -> int:
        return sum(len(example.input_ids) for past in range(step) for example in self.examples(past))

    def factor(self, done: int) -> float:
        """The learning rate after `done` steps of this process, as a share of the peak."""
        return cpt.lr_factor(self.recipe.schedule, min(self.first_step + done, self.num_steps - 1), self.num_steps)

    # Before the first step

    def resume(self) -> None:
        """Puts the newest checkpoint in place, or measures the state before the first step."""
        if latest := checkpoint.newest(self.out / "checkpoints"):
            self.first_step, progress = checkpoint.load(latest, self.lm, self.optimizer)
            self.lost_steps = progress["lost_steps"]
            self.scaler_state = progress["scaler"]
            self.done = self.saved = self.first_step
            self.log.keep_until(self.done)
            checkpoint.rotate(self.out / "checkpoints", self.done, self.recipe.keep_checkpoints)
            print(f"{self.out}: continuing after step {self.done} of {self.num_steps}")
            if self._is_due(self.recipe.evaluate_steps) and not self.log.has_heldout(self.done):
                self.evaluate(self.done, self.tokens_until(self.done))
        else:
            self.scaler_state = {}
            self.log.keep_until(-1)
            self.evaluate(0, 0)
            self.write_prompts()
        self.progress_bar = terminal.progress(self.num_steps, self.first_step, str(self.out), "step")
        self._watch = SpikeLog(self.out, self.recipe, self.log.lines())
        self._tokens_before = self.tokens_until(self.first_step)

    # Called by TRL's loop

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        scaler = self.trainer.accelerator.scaler
        if scaler is not None and self.scaler_state:
            scaler.load_state_dict(self.scaler_state)

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self._step_started = time.perf_counter()

    def on_substep_end(self, *args: Any, **kwargs: Any) -> None:
        interrupts.raise_if_requested()

    def on_pre_optimizer_step(self, args: Any, state: Any, *others: Any, **kwargs: Any) -> None:
        if self._unreached:
            step = self.first_step + state.global_step
            self._unreached = guards.check_gradients_reach(self._unreached, self.first_step, step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Once a step, after it: its line, then evaluation and checkpoint where they are due."""
        if "loss" not in logs:  # the summary at the end
            return
        done = self.first_step + state.global_step
        batch = self.examples(done - 1)
        step_tokens = sum(len(example.input_ids) for example in batch)
        self._seconds += time.perf_counter() - self._step_started
        self._tokens += step_tokens
        tokens = self._tokens_before + self._tokens
        skipped = self.trainer.accelerator.optimizer_step_was_skipped  # fp16 has overflowed
        self.lost_steps += int(skipped)
        self._require_finite(done, logs["loss"], 0.0 if skipped else logs["grad_norm"], batch)
        line = {"step": done, "tokens": tokens, "loss": logs["loss"], "learning_rate": logs["learning_rate"]}
        self.log.write(line | {"grad_norm": None if skipped else float(logs["grad_norm"])})
        self._watch.see(done, logs["loss"], [example.name for example in batch])
        self.progress_bar.set_postfix_str(f"loss {logs['loss']:.4f}, {self.speed:,.0f} tok/s", refresh=False)
        self.progress_bar.update()
        self.done = done
        if self._is_due(self.recipe.evaluate_steps):
            self.evaluate(done, tokens)
        if self._is_due(self.recipe.checkpoint_steps) or interrupts.take_save():
            self.save()
        interrupts.raise_if_requested()

    def _is_due(self, every_steps: int) -> bool:
        return self.done % every_steps == 0 or self.done == self.num_steps

    def save(self) -> None:
        self.log.sync()
        scaler = self.trainer.accelerator.scaler
        progress = {"lost_steps": self.lost_steps, "scaler": scaler.state_dict() if scaler is not None else {}}
        checkpoint.save(self.out / "checkpoints", self.done, self.lm, self.optimizer, progress)
        checkpoint.rotate(self.out / "checkpoints", self.done, self.recipe.keep_checkpoints)
        self.saved = self.done

    def save_last_step(self) -> None:
        """For a stop within a step."""
        if self.done > self.saved:
            self.save()

    def _require_finite(self, step: int, loss: float, grad_norm: float, batch: list[Example]) -> None:
        if math.isfinite(loss) and math.isfinite(grad_norm):
            return
        names = [example.name for example in batch]
        write_json(self.out / "nonfinite.json", {"step": step, "examples": names})
        latest = checkpoint.newest(self.out / "checkpoints")
        raise RunError(
            "sft-loss-not-finite",
            f"Step {step}: loss {loss}, gradient norm {grad_norm}. Stopped; the last good checkpoint is "
            f"{latest or 'none yet'}.",
            f"The step's examples are named in {self.out / 'nonfinite.json'}.",
            "Look at them; if they are sound, lower optimizer.learning_rate and start into another folder.",
        )

    # Held-out answers

    def evaluate(self, step: int, tokens: int) -> None:
        figures = {}
        if self.inputs.heldout:
            with autocast(self.how.device, self.recipe.compute_dtype):
                figures = score(self.lm, self.inputs.heldout, self.how.micro_batch_rows, self.how.device)
        self.log.write({"step": step, "tokens": tokens, "heldout": {"answers": figures}})

    def write_prompts(self) -> None:
        """The first examples of each held-out file in turn, and what the model answers untuned."""
        shown = in_turn(self.inputs.heldout, self.recipe.samples.count)
        prompts = [example.prompt for example in shown]
        values = {"prompts": prompts, "right": [example.answer for example in shown], "before": self._answer(prompts)}
        write_json(self.out / "samples.json", values)

    def write_answers(self) -> None:
        saved = read_json(self.out / "samples.json")
        head = ["# Answers to held-out prompts", "", "Greedy decoding; the prompts were not trained on."]
        after = self._answer(saved["prompts"])
        columns = {"Prompt": saved["prompts"], "Right": saved["right"], "Before": saved["before"], "After": after}
        samples.write_samples(self.out / "samples.md", self.inputs.tokenizer, head, columns)

    def _answer(self, prompts: list[list[int]]) -> list[list[int]]:
        with autocast(self.how.device, self.recipe.compute_dtype):
            return samples.continuations(self.lm, prompts, self.recipe.samples.new_tokens, self.inputs.end_id)

    @property
    def speed(self) -> float | None:
        """Tokens trained a second, prompts counted; None before the first step."""
        return self._tokens / self._seconds if self._seconds else None


# ------------------------------------------------------------------------------------------------------------ TRL


def make_trainer(tuning: Tuning) -> "SFTTrainer":
    """TRL's trainer over the steps that are left, with nothing saved, sent or printed by itself."""
    from datasets import Dataset
    from transformers import PrinterCallback, ProgressCallback, TrainerCallback
    from transformers.utils import logging as transformers_logging
    from trl import SFTConfig, SFTTrainer

    class Trainer(SFTTrainer):
        def _send_telemetry(self) -> None:
            """Nothing reaches the network."""

        def _get_train_sampler(self, *args: Any) -> torch.utils.data.Sampler:
            """The order is that of `places`."""
            return torch.utils.data.SequentialSampler(self.train_dataset)

    class Calls(TrainerCallback):
        on_train_begin = staticmethod(tuning.on_train_begin)
        on_step_begin = staticmethod(tuning.on_step_begin)
        on_substep_end = staticmethod(tuning.on_substep_end)
        on_pre_optimizer_step = staticmethod(tuning.on_pre_optimizer_step)
        on_log = staticmethod(tuning.on_log)

    transformers_logging.set_verbosity_error()
    recipe, how = tuning.recipe, tuning.how
    places = [place for step in range(tuning.first_step, tuning.num_steps) for place in tuning.places(step)]

    def collate_places(records: list[dict[str, int]]) -> dict[str, Any]:
        return for_trl(collate([tuning.inputs.examples[record["place"]] for record in records], how.device))

    settings = SFTConfig(
        output_dir=str(tuning.out),
        max_steps=tuning.num_steps - tuning.first_step,
        per_device_train_batch_size=how.micro_batch_rows,
        gradient_accumulation_steps=recipe.examples_per_step // how.micro_batch_rows,
        max_length=None,
        packing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        max_grad_norm=recipe.optimizer.max_grad_norm,
        bf16=recipe.compute_dtype == "bfloat16",
        fp16=recipe.compute_dtype == "float16",
        use_cpu=how.device == "cpu",
        gradient_checkpointing=False,  # model.recompute_layers has done it
        seed=recipe.seed,
        save_strategy="no",
        eval_strategy="no",
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,  # which would hide that a loss is not finite
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,  # batches are made on the device
    )
    settings._n_gpu = min(1, settings.n_gpu)  # the model is on one card, however many are visible
    trained = {name: parameter for name, parameter in tuning.lm.named_parameters() if parameter.requires_grad}
    in_fp32 = {name: parameter.data for name, parameter in trained.items()}
    trainer = Trainer(
        tuning.lm.model,
        args=settings,
        data_collator=collate_places,
        train_dataset=Dataset.from_dict({"place": places}),
        processing_class=tuning.inputs.chat_tokenizer,
        callbacks=[Calls()],
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


def for_trl(batch: Batch) -> dict[str, Any]:
    """A packed batch in TRL's words: one row, labels unshifted, and the layout that our attention goes by."""
    labels = torch.roll(batch.targets, 1)
    return {
        "input_ids": batch.input_ids[None],
        "labels": labels[None],
        "position_ids": batch.position_ids[None],
        "layout": batch.layout,
    }


# ---------------------------------------------------------------------------------------------- length, execution


def count_steps(recipe: Sft, num_examples: int) -> int:
    """Raises UserError where the warm-up takes all of them."""
    steps = recipe.steps or max(1, round(recipe.epochs * num_examples / recipe.examples_per_step))
    epochs = steps * recipe.examples_per_step / num_examples
    print(f"Data: {num_examples:,} examples; {steps} steps of {recipe.examples_per_step} show them {epochs:.2f} times")
    if recipe.schedule.warmup_steps >= steps:
        raise UserError(
            "sft-warmup-too-long",
            f"schedule.warmup_steps={recipe.schedule.warmup_steps} leaves no step of the {steps} that this data makes.",
            "Lower it, or give more epochs.",
        )
    return steps


def choose_execution(recipe: Sft, inputs: SftInputs, device: str, card_bytes: int | None) -> Execution:
    """The execution for this card, by the longest example; the examples of a step are cut into equal micro-batches.

    Raises:
        UserError: the model does not fit, it is fp16 on a CPU, or execution.micro_batch_rows does not divide
            examples_per_step.
    """
    require_card(recipe, inputs.size, device)
    if device == "cpu" and recipe.compute_dtype == "float16":
        raise UserError(
            "sft-float16-on-cpu",
            "compute_dtype=float16 on the CPU: small gradients would be lost.",
            "The trainer scales the loss on a card only.",
            "Set compute_dtype=float32 or bfloat16 here.",
        )
    asked, count = recipe.execution.micro_batch_rows, recipe.examples_per_step
    if asked and count % asked:
        raise UserError(
            "sft-micro-batch-rows",
            f"execution.micro_batch_rows={asked} does not divide examples_per_step={count}.",
            f"Take one of {', '.join(str(d) for d in range(1, count + 1) if count % d == 0)}.",
        )
    how = choose(recipe, inputs.size, inputs.longest, device, card_bytes)
    rows = max(divisor for divisor in range(1, how.micro_batch_rows + 1) if count % divisor == 0)
    return how.model_copy(update={"micro_batch_rows": rows})


# -------------------------------------------------------------------------------------------------------- results


def score(
    lm: PackedLM, examples: list[Example], micro_batch_rows: int, device: str
) -> dict[str, dict[str, float | int]]:
    """{source or "all": {"loss": nats a token of the answers, "tokens"}}."""
    nats: dict[str, float] = defaultdict(float)
    tokens: dict[str, int] = defaultdict(int)
    with evaluating(lm):
        for group in in_groups(examples, micro_batch_rows):
            batch = collate(group, device)
            losses = lm.losses(batch).double().cpu()
            interrupts.raise_if_requested()
            for number, example in enumerate(group):
                start, end = batch.layout.bounds[number : number + 2]
                for key in ("all", example.source):
                    nats[key] += float(losses[start:end].sum())
                    tokens[key] += int(example.is_answer.sum())
    return {key: {"loss": nats[key] / tokens[key], "tokens": tokens[key]} for key in nats}


def in_turn(examples: list[Example], count: int) -> list[Example]:
    """The first `count` examples, one of each source in turn."""
    by_source: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        by_source[example.source].append(example)
    places = sorted((place, number) for number, own in enumerate(by_source.values()) for place in range(len(own)))
    return [list(by_source.values())[number][place] for place, number in places[:count]]


def summarise(tuning: Tuning) -> dict[str, Any]:
    lines = tuning.log.lines()
    losses = [line["loss"] for line in lines if "loss" in line]
    evaluations = [line["heldout"] for line in lines if "heldout" in line]
    shown = [example for step in range(tuning.num_steps) for example in tuning.examples(step)]
    tail = losses[-max(1, len(losses) // 20) :]
    return {
        "steps": tuning.num_steps,
        "lost_steps": tuning.lost_steps,
        "examples": len(tuning.inputs.examples),
        "epochs": len(shown) / len(tuning.inputs.examples),
        "tokens": lines[-1]["tokens"],
        "answer_tokens": sum(int(example.is_answer.sum()) for example in shown),
        "records": {name: ledger.counts() for name, ledger in tuning.inputs.ledgers.items()},
        "first_loss": losses[0],
        "last_loss": sum(tail) / len(tail),
        **outputs.warnings_of(lines),
        "heldout": {"before": evaluations[0], "after": evaluations[-1]},
    }


def print_summary(tuning: Tuning, results: dict[str, Any], measured: dict[str, Any]) -> None:
    print(
        f"{tuning.out}: {results['steps']} steps, {results['tokens']:,} tokens, {results['answer_tokens']:,} of them "
        f"in answers, {measured['train_tokens_per_s'] or '-'} tokens/s, peak {measured['peak_memory_gib']} GiB"
    )
    outputs.print_warnings(results, tuning.recipe)
    if results["lost_steps"]:
        print(f"  {results['lost_steps']} steps overflowed in fp16 and changed nothing")
    before, after = (results["heldout"][when]["answers"] for when in ("before", "after"))
    for source in before:
        print(f"  held-out answers {source:<16} loss {before[source]['loss']:.4f} -> {after[source]['loss']:.4f}")
    if tuning.inputs.end_id not in stop_ids(tuning.inputs.base_dir):
        print(
            f"  Answers end with {tuning.recipe.end_of_text!r}, at which the model does not stop by itself: give it "
            f"as eos_token_id={tuning.inputs.end_id} where answers are generated."
        )


def stop_ids(model_dir: Path) -> list[int]:
    """The tokens at which generation from the model in `model_dir` stops, by its configs."""
    found: list[int] = []
    for name in ("generation_config.json", "config.json"):
        stops = read_json(model_dir / name).get("eos_token_id") if (model_dir / name).is_file() else None
        found += stops if isinstance(stops, list) else [] if stops is None else [stops]
    return found
