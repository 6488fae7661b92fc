"""Do the tests bite? One small wrong change of the package at a time, and the tests that must fail for it.

    python bench/mutants.py [NAME ...]    # of the table below those whose names begin so, or all: some seconds each

Package and tests are copied to a temporary folder; there one mutant at a time is applied and its test files are run
until one test fails. A test that fails without a mutant too does not count. Exit status 1 where a mutant survives.
The mistakes are such as would hurt a user in silence. One that a refactoring has taken the text from is adapted to the
new text, not deleted.
"""

import argparse
import importlib
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("nsllm_lite", "recipes", "tests", "bench")
LIMIT_S = 600
SLOW_TO_IMPORT = ("torch", "transformers", "peft", "bitsandbytes", "datasets")


class Mutant(NamedTuple):
    name: str
    file: str  # below nsllm_lite/
    old: str  # stands there once
    new: str
    tests: str  # files below tests/ or tests in them (FILE::TEST), separated by spaces

    def apply(self, text: str) -> str:
        """Raises ValueError where `old` is not there exactly once."""
        if (count := text.count(self.old)) != 1:
            raise ValueError(f"{self.name}: {self.old!r} stands {count} times in {self.file}; it must stand there once")
        return text.replace(self.old, self.new)


CPT = "train/test_cpt.py"
FIND = "train/test_find_lr.py"
NUMBERS = "faults/test_numbers.py"
EXECUTION = "models/test_execution.py"
GRADIENTS = "train/test_gradients.py"
EXACT = "merge/test_exact.py"
NF4 = "merge/test_nf4.py"
ARCHITECTURES = "models/test_architectures.py"
WRITE = "merge/test_write.py"
DRAWN = "merge/test_stochastic.py"
GGUF = "merge/test_gguf.py"
PACK = "corpus/test_pack.py"
BUILD = "corpus/test_build.py"
DEDUP = "corpus/test_dedup.py"
DECONTAMINATE = "corpus/test_decontaminate.py"
LOADING = "models/test_loading.py"
LOCK = "faults/test_lock.py"
INPUTS = "merge/test_inputs.py"
FORMS = "merge/test_forms.py"
ROWS = "formats/test_rows.py"
STEP = "artifact/test_step.py"
CLIPPED = f"{CPT}::test_a_long_gradient_is_clipped_and_its_norm_logged_as_it_was"
GUARDS = "train/test_guards.py"
DAMAGE = "faults/test_damage.py"

TABLE = {
    "merge/plan.py": [
        ("merge-rslora-scale", 'math.sqrt(rank) if adapter.settings.get("use_rslora") else rank', "rank", EXACT),
        ("merge-weight-dropped", "adapter.weight * alpha", "alpha",
         f"{EXACT}::test_several_adapters_in_turn_equal_peft"),
        ("merge-head-tied-by-config", "stated and same_bytes(", "stated or same_bytes(", FORMS),
        ("merge-rows-of-one-of-two", "if ties.stated and not ties.tied and ties.embedding in found",
         "if ties.tied and ties.embedding in found", FORMS),
        ("merge-rounds-all", 'f"{module}.weight" for module in adapter.nf4_means} or linear',
         'f"{module}.weight" for module in adapter.nf4_means} and linear or linear', NF4),
    ],
    "merge/verify.py": [
        ("verify-weights-unseen", "if not over.max() <= least", "if over.max() <= -1", FORMS),
        ("verify-one-unit-off-unseen", "if num_strays > MAX_STRAY_SHARE", "if -num_strays > MAX_STRAY_SHARE", DRAWN),
        ("verify-largest-unseen", 'not figures["largest"] <= allowed', "False", FORMS),
    ],
    "formats/adapter_names.py": [
        ("merge-pattern-open-end", r'rf"(.*\.)?({key})$"', r'rf"(.*\.)?({key})"', EXACT),
        ("adapter-names-collide", "if other is not stored and not same_bytes(other, stored)", "if False", INPUTS),
    ],
    "formats/tokenizer_choice.py": [
        ("tokenizer-of-other-ids", "if theirs.get(token) != number", "if token not in theirs",
         "merge/test_tokenizer.py"),
    ],
    "merge/arithmetic.py": [
        ("merge-second-adapter-on-base", "before = out.float()", "before = W",
         f"{EXACT}::test_several_adapters_in_turn_equal_peft"),
        ("merge-draws-for-the-unchanged", "torch.where(delta == 0, ", "torch.where(delta != delta, ", DRAWN),
        ("merge-casts-between-adapters", "if planned.key is None else total", "if True else total", DRAWN),
        ("merge-first-row-lost", "if first <= index < last", "if first < index < last", EXACT),
        ("merge-delta-one-sided", "max(-low.item(), high.item())", "high.item()", WRITE),
        ("merge-copy-not-finite", "masked.max() == mask", "masked.min() == mask", INPUTS),
    ],
    "merge/nf4.py": [
        ("merge-nf4-block", "first_block + first // BLOCK", "first_block", NF4),
        ("merge-nf4-mean-ignored", "absmax.mean().item() if mean is None", "absmax.mean().item() if True", NF4),
        ("merge-nf4-codes-ignored", "if held.codes is None or held.mean is None", "if True", NF4),
        ("merge-nf4-even-code", "bounds[1::2] - 1)", "bounds[1::2] + 1)", NF4),
        ("merge-nf4-zeros-of-a-card", "VALUES[0]\n", "0\n", NF4),
        ("merge-nf4-tie", "flat > UP_TO", "flat >= UP_TO", NF4),
    ],
    "merge/stochastic.py": [
        ("merge-draws-of-the-seed-alone", '{seed} {name}"', '{seed}"', DRAWN),
        ("merge-draws-restart-in-slices", "counter=first // BLOCK", "counter=0", DRAWN),
        ("merge-half-subnormals", "HALF_LEAST << EXPONENT_BITS)", "HALF_LEAST - 9 << EXPONENT_BITS)", DRAWN),
        ("merge-largest-becomes-infinite", "if largest == (limit", "if -largest == (limit", DRAWN),
        ("merge-replaced-to-the-nearest", "(planned.updates or planned.replaced) and", "planned.updates and", DRAWN),
    ],
    "merge/write.py": [
        ("merge-shard-too-large", "filled + planned.num_bytes >", "filled >", WRITE),
        ("merge-first-slice-unseen", "number % SAMPLED == 0", "number % SAMPLED == 1", INPUTS),
        ("merge-resume-loses-tensor", "[written.num_tensors :]",
         "[written.num_tensors + bool(written.num_tensors) :]", WRITE),
    ],
    "formats/gguf.py": [
        ("gguf-overlapping", "if offset != place:", "if offset < 0:", "formats/test_gguf.py"),
        ("gguf-cut-short-unseen", "if start + offset + num_bytes > head.size:", "if start + offset > head.size:",
         "formats/test_gguf.py"),
    ],
    "merge/gguf/metadata.py": [
        ("gguf-key-unseen", "if about != key or (", "if about == key and (", GGUF),
    ],
    "merge/gguf/model.py": [
        ("gguf-heads-interleaved", "interleaved.fullmatch(name) else 0", "False else 0", GGUF),
        ("gguf-heads-of-a-slice", "whole * whole)", "1)", GGUF),
        ("gguf-rope-any-factors", "rtol=1e-4, atol=0)", "rtol=1e9, atol=0)", GGUF),
    ],
    "merge/gguf/tokenizer.py": [
        ("gguf-merges-heeded", "ignore_merges=cutting.ignore_merges", "ignore_merges=False", GGUF),
        ("gguf-not-normalised", "normalizers.NFC() if cutting.nfc else None", "None", GGUF),
        ("gguf-user-defined-lost", "in (UNKNOWN, CONTROL, USER_DEFINED)", "in (UNKNOWN, CONTROL)", GGUF),
    ],
    "models/trained_on.py": [
        ("merge-any-fingerprint", "if told and told != (", "if told and not (", INPUTS),
        ("merge-base-hash-unread", 'if found[name]["sha256"] != told', 'if found[name]["sha256"] == "" != told',
         f"{DAMAGE}::test_a_base_that_changed_after_training_is_not_merged_into"),
    ],
    "corpus/pack.py": [
        ("pack-end-token", "- places[row_starts[0]] - 1", "- places[row_starts[0]] - 2", PACK),
        ("pack-cut-at-whole-rows", "(num_tokens - 1) % room + 1", "num_tokens % room", PACK),
        ("pack-mask-misaligned", "start += batch.num_rows", "start = batch.num_rows", PACK),
        ("pack-continued-one-more", "< layout.num_later", "<= layout.num_later", PACK),
        ("pack-last-shard-lost", "    if shard:\n        yield shard", "    if not shard:\n        yield shard",
         PACK),
    ],
    "formats/rows.py": [
        ("rows-targets", "return len(self.input_ids) - len(self.doc_lengths)", "return len(self.input_ids)", ROWS),
        ("rows-hash-without-tokens", "ascontiguousarray(ids.to_numpy())", "ascontiguousarray(lengths.to_numpy())",
         ROWS),
        ("rows-token-at-vocab", '<= bounds["max"] < vocab', '<= bounds["max"] <= vocab',
         f"{NUMBERS}::test_a_token_that_the_model_has_not_is_named_with_its_document"),
        ("rows-last-batch-unchecked", "zip(self._starts, self._batches, strict=False)",
         "zip(self._starts, self._batches[:-1], strict=False)",
         f"{NUMBERS}::test_a_token_that_the_model_has_not_is_named_with_its_document"),
    ],
    "train/order.py": [
        ("order-seed-ignored", "default_rng([seed, stream, epoch])", "default_rng([stream, epoch])",
         f"{CPT}::test_the_order_is_a_function_of_seed_and_step"),
        ("order-epoch-ignored", "default_rng([seed, stream, epoch])", "default_rng([seed, stream])",
         f"{CPT}::test_the_order_is_a_function_of_seed_and_step"),
        ("order-replay-share", "self.rows_per_step * self.replay_share", "self.rows_per_step * self.replay_share / 2",
         f"{CPT}::test_the_order_is_a_function_of_seed_and_step"),
        ("order-epochs-with-replay", "(steps * self.rows_per_step - self._replay_before(steps))",
         "(steps * self.rows_per_step)", f"{CPT}::test_the_order_is_a_function_of_seed_and_step"),
        ("order-replay-repeats", "return min(Fraction(share)", "return max(Fraction(share)",
         f"{CPT}::test_replay_does_not_repeat_too_often"),
    ],
    "train/setup.py": [
        ("train-warm-up", "(step + 1) / (schedule.warmup_steps + 1)", "1.0", f"{CPT}::test_learning_rate"),
    ],
    "train/find_lr.py": [
        ("find-lr-does-not-rise", "return self.rate(number) / ", "return LOWEST / ", FIND),
        ("find-lr-does-not-end", "if smoothed > DIVERGED * self._lowest", "if smoothed < 0", FIND),
        ("find-lr-of-noise", "if fall < max(", "if fall < min(", FIND),
        ("find-lr-of-few-rows", "if there * MAX_EPOCHS <", "if there * 100 * MAX_EPOCHS <", FIND),
    ],
    "train/cpt.py": [
        ("train-clipping", "recipe.optimizer.max_grad_norm)", "1e9)", CLIPPED),
    ],
    "models/attention.py": [
        ("attention-scale", "Attending(scaling, causal", "Attending(2 * scaling, causal", LOADING),
        ("attention-window-ignored", "causal, window, softcap)", "causal, None, softcap)", ARCHITECTURES),
        ("attention-cap-ignored", "window, softcap)", "window, None)", ARCHITECTURES),
        ("encoder-sees-the-past-alone", "causal=False)", "causal=True)", "models/test_encoder.py"),
    ],
    "models/architectures.py": [
        ("logits-scale-ignored", "Logits(scale.get(kind, 1.0),", "Logits(1.0,", ARCHITECTURES),
        ("logits-cap-ignored", 'getattr(config, "final_logit_softcapping", None)', "None", ARCHITECTURES),
        ("answers-cap-ignored", '"eager" if', '"sdpa" if', ARCHITECTURES),
    ],
    "train/checkpoint.py": [
        ("checkpoint-rng-not-restored", '_restore_rng(load_file(path / "rng.safetensors"))',
         'load_file(path / "rng.safetensors")', "train/test_checkpoint.py"),
        ("checkpoint-numbers-lost", '_join(tensors, state["optimizer"])', "_join(tensors, {})",
         f"{CPT}::test_a_stopped_run_continues_bit_for_bit"),
        ("checkpoint-hash-not-compared", " or sha256_file(path / name) != sha", "",
         f"{DAMAGE}::test_a_damaged_checkpoint_is_passed_over_and_the_run_ends_the_same"),
        ("checkpoint-infinity-passes", "not all(map(math.isfinite", "not any(map(math.isfinite",
         f"{NUMBERS}::test_a_checkpoint_is_not_made_of_what_is_not_finite"),
        ("checkpoint-rotation-short", "if num_good == keep:", "if num_good == keep - 1:",
         f"{CPT}::test_a_damaged_later_checkpoint_does_not_push_out_the_good_ones"),
        ("checkpoint-oldest-first", "is_file()), key=step_of, reverse=True)", "is_file()), key=step_of)",
         f"{CPT}::test_a_damaged_later_checkpoint_does_not_push_out_the_good_ones"),
    ],
    "corpus/ledger.py": [
        ("ledger-tokens-of-others", "start = taken[phase, split]", "start = 0",
         f"{BUILD}::test_rows_hold_what_the_ledger_says"),
        ("ledger-stretches-apart", r'r"@\d+$"', r'r"@\d+#$"',
         f"{BUILD}::test_the_ledger_s_counts_are_those_of_its_lines"),
        ("ledger-counts-itself", ").num_rows\n", ").num_rows + 1\n",
         f"{BUILD}::test_the_ledger_s_counts_are_those_of_its_lines"),
        ("ledger-chars-counted", '("chars", "sum"), ("tokens", "sum")', '("chars", "count"), ("tokens", "sum")',
         f"{BUILD}::test_the_ledger_s_counts_are_those_of_its_lines"),
    ],
    "corpus/build.py": [
        ("build-drop-share", "reasons.total() / total", "reasons.total() / (total + left)",
         f"{BUILD}::test_a_drop_share_above_the_limit_needs_consent"),
        ("build-drop-boundary", "share > recipe.max_drop_share", "share >= recipe.max_drop_share",
         f"{BUILD}::test_a_drop_share_above_the_limit_needs_consent"),
        ("build-evaluation-not-hashed", "evaluation_index(tuple(recipe.decontaminate)).sha256",
         "str(recipe.decontaminate)", f"{BUILD}::test_methods_are_compared_with_evaluation_files_too"),
    ],
    "corpus/reuse.py": [
        ("reuse-language-not-read-again", '"languages", "decontaminate", "min_chars")',
         '"decontaminate", "min_chars")', f"{BUILD}::test_settings_that_reading_obeys_read_the_sources_again"),
    ],
    "corpus/dedup.py": [
        ("dedup-jaccard", "max(1, len(both) - shared)", "max(1, len(both))", DEDUP),
        ("dedup-threshold-boundary", "jaccard(own, shingles(other)) >= threshold",
         "jaccard(own, shingles(other)) > threshold", DEDUP),
        ("dedup-no-doi-is-one-doi", "(found.other < 0) & (values != 0)", "(found.other < 0)", DEDUP),
        ("dedup-recall", ">= 0.99]", ">= 0.9]", DEDUP),
        ("dedup-prefilter-by-largest", "self._sizes.min()", "self._sizes.max()", DEDUP),
    ],
    "corpus/decontaminate.py": [
        ("decontaminate-need", "np.ceil(np.maximum(", "np.ceil(np.minimum(", DECONTAMINATE),
        ("decontaminate-prefilter", "np.maximum.reduceat", "np.minimum.reduceat", DECONTAMINATE),
        ("decontaminate-hash", "{name: sha256_file(path)", "{name: name", DECONTAMINATE),
    ],
    "corpus/ingest.py": [
        ("decontaminate-abstract-only", "shingles)[0] for _ in one.texts[1:]", "shingles)[0] for _ in one.texts[2:]",
         f"{BUILD}::test_methods_are_compared_with_evaluation_files_too"),
    ],
    "train/guards.py": [
        ("guard-forgetting", "if rise <= limit:", "if rise >= limit:",
         f"{CPT}::test_forgetting_stops_the_run_and_a_higher_limit_continues_it"),
        ("guard-zero-gradient", "if p.grad is None or not bool(p.grad.any())", "if p.grad is None", GUARDS),
        ("guard-finite-loss-is-enough", "isfinite(loss) and math", "isfinite(loss) or math", GUARDS),
    ],
    "train/spikes.py": [
        ("spikes-either-measure", "middle > max(SPIKE_DEVIATIONS", "middle > min(SPIKE_DEVIATIONS",
         f"{NUMBERS}::test_noise_is_no_spike_and_no_sign_of_a_high_rate"),
        ("spikes-last-lost", 'max((line["step"]', 'min((line["step"]',
         f"{NUMBERS}::test_a_spike_is_reported_once_and_the_same_after_a_resume"),
        ("spikes-window", "recent[-SMOOTHED:]))\n", "recent))\n",
         f"{NUMBERS}::test_a_rate_that_is_too_high_is_recognised"),
    ],
    "artifact/lock.py": [
        ("lock-counting-is-stale", "(now := _read(path)) != holder", "(now := _read(path)) is None", LOCK),
        ("lock-beat-stands-still", "        beat += 1\n", "", LOCK),
        ("lock-living-process", "if not locked and Path(", "if locked and Path(", LOCK),
        ("lock-other-host-is-ours", 'holder["host"] == socket.gethostname()', "True", LOCK),
    ],
    "models/execution.py": [
        ("execution-gradient-forgotten", "(4 + 4 + OPTIMIZER_BYTES", "(4 + OPTIMIZER_BYTES", EXECUTION),
        ("execution-double-quantisation", "{True: 0.5159, False: 0.5625}", "{True: 0.5625, False: 0.5159}",
         EXECUTION),
        ("execution-whole-card", "USABLE_SHARE * card.memory_bytes]", "card.memory_bytes]", EXECUTION),
        ("execution-one-micro-batch-lost", "range(1, number + 1)", "range(1, number)", EXECUTION),
        ("execution-no-logits", "else width) * logits", "else 0) * logits", EXECUTION),
        ("execution-recompute-saves-nothing", "layer * (size.layers - recomputed)", "layer * size.layers",
         EXECUTION),
    ],
    "train/gradients.py": [
        ("gradients-copies-outlive-the-step", "group.held = None", "pass", GRADIENTS),
        ("gradients-never-clipped", "clamp(max=1.0)", "clamp(min=1.0, max=1.0)", GRADIENTS),
    ],
    "kernels/fp8.py": [
        ("fp8-gradients-without-the-scales", "quantise(grad_TO, weight.scale.flatten())", "quantise(grad_TO)",
         "kernels/test_fp8.py"),
        ("fp8-sums-in-16-bits", "enabled=False", "enabled=True", "kernels/test_fp8.py"),
    ],
    "kernels/lora_linears.py": [
        ("fp8-in-evaluations", "group.has_fp8 and torch.is_grad_enabled()", "group.has_fp8",
         "kernels/test_lora_linears.py"),
    ],
    "models/device.py": [
        ("fp8-on-any-card", "self.capability >= (8, 9)", "self.capability >= (8, 0)", EXECUTION),
    ],
    "models/cost.py": [
        ("execution-recompute-is-free", "size.linear_params, 2 + share", "size.linear_params, 2", EXECUTION),
        ("execution-host-is-free", "speed.share, of.host_s)", "speed.share, 0)", EXECUTION),
    ],
    "train/fallback.py": [
        ("fallback-of-one-of-several", "not is_alone or", "", "train/test_fallback.py"),
    ],
    "artifact/step.py": [
        ("step-inputs-not-compared", 'if inputs[key] != known.get(key)', "if False", STEP),
        ("step-one-file-is-none", "if before and strange and", "if before and", STEP),
    ],
    "artifact/json_files.py": [
        ("lines-last-lost", "value[key] <= last", "value[key] < last",
         "artifact/test_json_files.py::test_what_is_later_than_the_checkpoint_is_taken_back"),
        ("step-seal-not-compared", "seal != sha256_json(value)", "not seal",
         f"{DAMAGE}::test_a_damaged_checkpoint_is_passed_over_and_the_run_ends_the_same"),
    ],
    "models/heldout.py": [
        ("heldout-bits", "self.nats / math.log(2)", "self.nats", LOADING),
        ("heldout-targets", "(batch.targets != IGNORE)", "(batch.targets == batch.targets)", LOADING),
        ("heldout-first-rows-only", "np.linspace(0, len(rows) - 1, max_rows)", "range(max_rows)", LOADING),
        ("heldout-stays-in-evaluation", "module.training = training", "pass", LOADING),
        ("heldout-group-and-source", 'groups.get(name, source), "all"', 'source, "all"',
         "evals/test_report.py::test_bits_per_byte_by_discipline"),
    ],
}  # fmt: skip
MUTANTS = [Mutant(name, file, *rest) for file, rows in TABLE.items() for name, *rest in rows]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="the beginning of a mutant's name")
    names = parser.parse_args().names
    chosen = [mutant for mutant in MUTANTS if mutant.name.startswith(tuple(names or [""]))]
    if not chosen:
        parser.error(f"no mutant's name begins with {' or '.join(names)}")
    return run(chosen)


def run(mutants: list[Mutant]) -> int:
    """Prints a line a mutant; 1 where one survives."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    for name in SLOW_TO_IMPORT:
        importlib.import_module(name)
    caught: dict[Mutant, str] = {}
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        trial = Trial(Path(folder))
        left = mutants
        while left:
            for mutant in left:
                started = time.monotonic()
                caught[mutant] = trial.first_failure(mutant)
                seconds = time.monotonic() - started
                print(f"{mutant.name:<32} {caught[mutant] or 'SURVIVED'}  ({seconds:.0f} s)", flush=True)
            trial.broken |= trial.failures(sorted({caught[mutant] for mutant in left} - {""}))
            left = [mutant for mutant in left if caught[mutant] in trial.broken]
            if left:
                print(f"Once more without tests that fail in any case: {', '.join(sorted(trial.broken))}")
    survived = [mutant.name for mutant, test in caught.items() if not test]
    print(f"{len(mutants) - len(survived)} of {len(mutants)} caught", *survived, sep="\n  survived: ")
    return int(bool(survived))


class Trial:
    """A copy of package and tests in `folder`, right but for the mutant at work. `broken` are tests not to be run."""

    def __init__(self, folder: Path):
        self._folder = folder
        for name in COPIED:
            unneeded = shutil.ignore_patterns("__pycache__", ".pytest_cache")
            shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=unneeded)
        shutil.copy2(ROOT / "pyproject.toml", folder)
        self._clock = int(time.time())
        self.broken: set[str] = set()

    def first_failure(self, mutant: Mutant) -> str:
        """The first of its tests that fails with the mutant, empty where none does.

        Raises:
            ValueError: the mutant's text is not there exactly once.
        """
        path = self._folder / "nsllm_lite" / mutant.file
        right = path.read_text(encoding="utf-8")
        self._put(path, mutant.apply(right))
        try:
            return next(iter(self.failures(["-x", *(f"tests/{name}" for name in mutant.tests.split())])), "")
        finally:
            self._put(path, right)

    def _put(self, path: Path, text: str) -> None:
        path.write_text(text, encoding="utf-8")
        self._clock += 1
        os.utime(path, (self._clock, self._clock))  # of the same second, a stale .pyc would pass for it

    def failures(self, words: list[str]) -> set[str]:
        """The tests among those of pytest's `words` that fail, or the files that cannot be loaded."""
        cache = self._folder / ".pytest_cache/v/cache/lastfailed"
        cache.unlink(missing_ok=True)
        if not words:
            return set()
        words = ["-q", f"--basetemp={self._folder / 'tmp'}", *(f"--deselect={name}" for name in self.broken), *words]
        process = multiprocessing.get_context("fork").Process(target=self._pytest, args=(words,))
        process.start()
        process.join(LIMIT_S)
        process.kill()
        process.join()
        if process.exitcode in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):  # all may be broken
            return set()
        if not cache.is_file():
            said = (self._folder / "log").read_text(encoding="utf-8", errors="replace")
            raise RuntimeError(f"pytest ended with {process.exitcode} on {' '.join(words)}:\n{said[-2000:]}")
        return set(json.loads(cache.read_text()))

    def _pytest(self, words: list[str]) -> None:
        """In a fork, so that `SLOW_TO_IMPORT` is not imported again each time."""
        log = os.open(self._folder / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(self._folder)
        elsewhere = [path for path in sys.path if Path(path).resolve() not in (ROOT, ROOT / "bench")]
        sys.path[:] = [str(self._folder), *elsewhere]
        os.environ["PYTHONPATH"] = str(self._folder)
        sys.exit(int(pytest.main(words)))


if __name__ == "__main__":
    sys.exit(main())
