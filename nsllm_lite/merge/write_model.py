"""`nsllm-lite merge`: base + LoRA adapters -> an ordinary Hugging Face model directory.

The result is bit for bit what PEFT's `merge_and_unload(safe_merge=False)` gives on a CPU (`arithmetic.py`), unless sums
are rounded stochastically (`stochastic.py`). It is written in slices (`write.py`) to `OUT.partial`, which is renamed
when its manifest is there. A killed merge continues.

Into which base? QLoRA trained the adapter on the base's NF4 rounding. Adding it to that rounding (`dequantized`)
reproduces training exactly; but NF4 codes sit at bin centres, so when the next phase quantises that model again, small
updates are rounded away, while on the original weights they survive on average. `auto` measures (`compare.py`).
"""

import os
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from nsllm_lite import __version__
from nsllm_lite.artifact import integrity
from nsllm_lite.artifact.disk import GIB, require_disk
from nsllm_lite.artifact.json_files import read_json, sha256_json, write_json
from nsllm_lite.artifact.lineage import quantised_behind
from nsllm_lite.artifact.step import BESIDE, finish, finished
from nsllm_lite.errors import UserError
from nsllm_lite.formats.generation import stop_ids
from nsllm_lite.formats.rows import Rows
from nsllm_lite.formats.tokenizer_choice import Chosen, choose_tokenizer, require_known, tokenizer_digest
from nsllm_lite.formats.weights import fingerprint_settings, listed
from nsllm_lite.merge import card
from nsllm_lite.merge.arithmetic import Figures
from nsllm_lite.merge.inputs import NF4_SCALES, OBEYED, Adapter, Base, open_inputs, require_sound
from nsllm_lite.merge.other_files import write_other_files
from nsllm_lite.merge.partial import partial_folder, partial_of, require_free
from nsllm_lite.merge.plan import EXACT, Plan, on_rounding, plan_merge
from nsllm_lite.merge.stochastic import keyed
from nsllm_lite.merge.write import Written, merging, slice_entries, write_weights
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.merge import Merge

MAX_WORKERS = 4  # more wait for the disk
LOW_SHARE = 0.9  # of the update in the result, below which stochastic rounding is proposed


def merge(recipe: Merge) -> dict:
    """Writes `recipe.out` and returns the manifest's results.

    Raises:
        UserError: an input is missing, damaged or does not fit the other, or asks for what is not supported.
        RunError: the result is not what it should be, and nothing is left.
    """
    started, out = time.time(), Path(recipe.out).absolute()
    base, adapters = open_inputs(recipe)
    plan = keyed(plan_merge(base, adapters, recipe.dtype), recipe)
    tokenizer = choose_tokenizer(base.folder, [adapter.folder for adapter in adapters], recipe.tokenizer_from)
    inputs = hash_inputs(recipe, base, adapters, tokenizer)
    if (results := finished(out, recipes.identity(recipe), inputs)) is not None:
        card.add_scores(out, recipe, base, adapters, results)
        return results
    require_fitting(recipe, base, plan, tokenizer)
    stop_ids(base.folder)  # of files that are read again at the end
    require_free(out, (base.folder, *(adapter.folder for adapter in adapters)))
    num_bytes = sum(planned.num_bytes for planned in plan.tensors.values())
    done_bytes = sum(path.stat().st_size for path in partial_of(out).glob("*.safetensors"))
    require_disk(out, num_bytes - done_bytes + 64 * 2**20, "the merged model")
    require_sound(base, adapters, recipe.trust_base)

    with partial_folder(out, {"recipe": recipes.identity(recipe), "inputs": inputs, "version": __version__}) as partial:
        chosen, comparison = choose_base_weights(recipe, base, adapters, plan, partial)
        plan, rounding = (plan, EXACT) if chosen == "original" else on_rounding(plan, adapters, recipe)
        workers = recipe.execution.workers or min(MAX_WORKERS, os.cpu_count() or 1)
        slot_entries = max(map(slice_entries, plan.tensors.values()))
        how = (merging(rounding), slot_entries, workers, f"merge {recipe.out}")
        written = write_weights(partial, plan.tensors, recipe.shard_bytes, *how)
        results = {"base_weights": chosen, **rounding_of(recipe), **summarise(plan, written), "comparison": comparison}
        results["base_model"] = card.base_model_of(recipe.base, base.folder)
        if quantised := quantised_behind(base.folder):
            results["quantised"] = quantised
        if told := [adapter.training["template"] for adapter in adapters if adapter.training.get("template")]:
            results["template"] = told[-1]  # in which the model is to be asked
        results["left_behind"] = write_other_files(partial, base, adapters, plan, recipe, tokenizer)
        write_figures(partial, written)
        results["tokenizer"] = tokenizer.words
        if recipe.execution.verify:
            from nsllm_lite.merge.verify import verify

            results["verified"] = verify(recipe, base, adapters, plan, rounding, partial, written)
        card.write(partial, recipe, base, adapters, results)
        finish(partial, "merge", recipes.identity(recipe), inputs, results, started)
    print(summary_line(recipe, results, time.time() - started))
    return results


def hash_inputs(recipe: Merge, base: Base, adapters: list[Adapter], tokenizer: Chosen) -> dict[str, str | None]:
    """What decides the result: the weights, of each adapter's config all that the merge obeys, and its tokenizer where
    that is taken."""
    inputs: dict[str, str | None] = {"base": base.fingerprint, f"{BESIDE}base": fingerprint_settings(base.folder)}
    for number, adapter in enumerate(adapters, 1):
        label = "adapter" if len(adapters) == 1 else f"adapter {number}"
        inputs[label] = adapter.sha256
        obeyed = {key: value for key, value in adapter.settings.items() if value and key in OBEYED}
        scales = {NF4_SCALES: integrity.sha256_file(adapter.folder / NF4_SCALES)} if adapter.nf4_scales else {}
        inputs[f"{label} settings"] = sha256_json(obeyed | adapter.nf4_means | scales)
    if recipe.base_weights == "auto":
        inputs["heldout"] = Rows(Path(recipe.heldout_rows)).sha256  # else they decide nothing, wherever they lie
    if tokenizer.template != base.folder:
        inputs["tokenizer"] = tokenizer_digest(tokenizer.template, beside=base.folder)
    return inputs


def require_fitting(recipe: Merge, base: Base, plan: Plan, tokenizer: Chosen) -> None:
    """Raises UserError where the tokenizer has tokens that the result does not, or --verify could not load the base."""
    rows = [planned.source.shape[0] for name, planned in plan.tensors.items() if name.endswith("embed_tokens.weight")]
    if tokenizer.tokenizer != base.folder and rows:
        require_known(tokenizer, rows[0])
    if tokenizer.template != base.folder:
        print(f"The tokenizer of {recipe.out} is {tokenizer.words} ({tokenizer.template})")
    if recipe.execution.verify:
        from nsllm_lite.models.loading import require_known_config

        require_known_config(base.folder)


def choose_base_weights(
    recipe: Merge, base: Base, adapters: list[Adapter], plan: Plan, partial: Path
) -> tuple[str, dict | None]:
    """`original` or `dequantized`, and the table it was chosen by; a killed run's table is read again."""
    if recipe.base_weights != "auto":
        return recipe.base_weights, None
    from nsllm_lite.merge.compare import compare, lowest

    path = partial / "comparison.json"
    if not path.is_file():
        write_json(path, compare(recipe, base, adapters, plan))
    comparison = read_json(path)
    return lowest(comparison, recipe.then_requantize), comparison


def write_figures(partial: Path, written: Written) -> None:
    """What is known of each file of weights, and of each tensor that was merged."""
    weights = {n: {"bytes": (partial / n).stat().st_size, "sha256": sha256} for n, sha256 in written.sha256.items()}
    integrity.record(partial, integrity.BESIDE_WEIGHTS, weights)
    of_tensors = {name: shares(figures) for name, figures in written.figures.items() if figures.num_entries}
    write_json(partial / "tensors.json", of_tensors)


def shares(figures: Figures) -> dict[str, float]:
    """Of an update D, as shares from 0 to 1 (see `Figures`). NF4 is measured on 64 rows of every eighth slice."""
    return {
        "max_abs_delta": figures.max_abs_delta,
        "delta_norm": figures.energy**0.5,
        "absorbed_share": figures.num_absorbed / figures.num_entries if figures.num_entries else 0.0,
        "kept_share": figures.kept / figures.energy if figures.energy else 1.0,
        "nf4_kept_share": figures.nf4_kept / figures.nf4_energy if figures.nf4_energy else 1.0,
    }


def summarise(plan: Plan, written: Written) -> dict:
    """The manifest's figures. Raises UserError where no update changes anything."""
    total, by_kind = Figures(), defaultdict(Figures)
    for name, figures in written.figures.items():
        held_in_nf4 = plan.tensors[name].linear
        total = total.plus(figures if held_in_nf4 else figures._replace(nf4_energy=0.0, nf4_kept=0.0))
        kind = name.removesuffix(".weight").rpartition(".")[2]
        by_kind[kind] = by_kind[kind].plus(figures)
    tensors = plan.tensors.values()
    if not total.energy and not any(planned.replaced for planned in tensors):
        found = "The adapter changes nothing: every B A is zero."
        todo = "set adapter=DIR to the result of a training, not to one that was only begun."
        raise UserError("merge-changes-nothing", found, "An adapter that was trained is needed:", todo)
    return {
        "num_merged": sum(bool(planned.updates) for planned in tensors),
        "num_replaced": sum(planned.replaced and not planned.updates for planned in tensors),
        "num_copied": sum(not planned.touched for planned in tensors),
        "num_bytes": sum(planned.num_bytes for planned in tensors),
        **shares(total),
        "kept_by_kind": {kind: of.kept / of.energy for kind, of in sorted(by_kind.items()) if of.energy},
        "unchanged": [name for name, of in written.figures.items() if of.energy and of.num_absorbed == of.num_entries],
        "untied_embeddings": plan.untied,
        "sha256": written.sha256,
    }


def rounding_of(recipe: Merge) -> dict[str, Any]:
    seed = {"rounding_seed": recipe.rounding_seed or 0} if recipe.rounding else {}
    return {"rounding": recipe.rounding or "nearest", **seed}


def words_of_rounding(results: dict) -> str:
    return f"stochastically, seed {results['rounding_seed']}" if "rounding_seed" in results else "to the nearest"


def summary_line(recipe: Merge, results: dict, seconds: float) -> str:
    how = [f"{kind} {share:.1%}" for kind, share in results["kept_by_kind"].items()]
    how += [f"rounded {words_of_rounding(results)}"]
    how += ["--rounding stochastic keeps all on average"] * (not recipe.rounding and results["kept_share"] < LOW_SHARE)
    warning = ""
    if unchanged := results["unchanged"]:
        warning = f". No entry shows the update of {listed(unchanged)}: it is too small for their dtype"
    return (
        f"{recipe.out}: {results['num_merged']} tensors merged into the {results['base_weights']} weights, "
        f"{results['num_replaced']} replaced, {results['num_copied']} copied; {results['num_bytes'] / GIB:.2f} GiB "
        f"in {seconds:.0f} s. Of the update {results['kept_share']:.1%} is in the result ({', '.join(how)}; "
        f"{results['absorbed_share']:.1%} of the entries were changed by too little for their dtype to show it), "
        f"{results['nf4_kept_share']:.1%} after rounding to NF4{warning}"
    )
