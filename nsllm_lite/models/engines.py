"""Opens the generation engine of a model: transformers, or vLLM."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nsllm_lite import safety
from nsllm_lite.artifact.json_files import read_object
from nsllm_lite.artifact.step import read_manifest
from nsllm_lite.errors import UserError
from nsllm_lite.formats.tokenizer_choice import Chosen, choose_tokenizer, has_tokenizer, require_known
from nsllm_lite.formats.weights import require_sound
from nsllm_lite.models.alone_engine import AloneEngine
from nsllm_lite.models.architectures import is_accepted
from nsllm_lite.models.generate import Engine
from nsllm_lite.models.hub import resolve_model
from nsllm_lite.models.loading import load_base
from nsllm_lite.models.lora import load_adapter
from nsllm_lite.models.quantised import quantisation_of
from nsllm_lite.models.trained_on import read_training, require_same_files, require_trained_on
from nsllm_lite.recipe.evals import EvalExecution

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from nsllm_lite.models.vllm_engine import VllmEngine


class Found(NamedTuple):
    """The files of an engine; `options` are those of `load_base`, with an empty compute_dtype where none is stated."""

    folder: Path
    adapter: Path | None
    options: dict[str, Any]
    tokenizer: Chosen
    ends: tuple[int, ...] = ()  # at which the adapter's answers end
    template: str | None = None  # "plain" or "chat", in which an instruction tuning of ours asked

    def load_tokenizer(self) -> "PreTrainedTokenizerBase":
        """Without the chat template where the tuning did not ask in it."""
        tokenizer = self.tokenizer.load()
        if self.template == "plain":
            tokenizer.chat_template = None
        return tokenizer


def find_model(
    path: str, *, how: EvalExecution, quantisation: str = "none", tokenizer_from: str | None = None
) -> Found:
    """What the engine of a model folder, a hub id, or an adapter's folder (with its base as its training held it) will
    read; a hub id is fetched.

    Raises:
        UserError: there is no such model, or it has no tokenizer, or the backend cannot take it.
    """
    folder, adapter, ends, template = Path(path), None, (), None
    options = {"quantisation": quantisation, "double_quantisation": True, "compute_dtype": ""}
    if (folder / "adapter_config.json").is_file():
        adapter = folder
        kinds = {"quantisation": str, "double_quantisation": bool, "compute_dtype": str}
        training = read_training(folder, **kinds)
        options |= {name: training[name] for name in options if training}
        ends = (end,) if type(end := training.get("end_of_text_id")) is int else ()
        template = training.get("template")
        settings = read_object(adapter / "adapter_config.json", base_model_name_or_path=str)
        safety.require_lora(settings, adapter)
        folder = resolve_model(settings["base_model_name_or_path"], adapter / "adapter_config.json")
        require_trained_on(folder, adapter, training)
    else:
        folder = resolve_model(path)
        manifest = read_manifest(folder)
        template = manifest["results"].get("template") if manifest and manifest["verb"] == "merge" else None
    chosen = choose_tokenizer(folder, [adapter] if adapter else [], tokenizer_from if adapter else None)
    if not has_tokenizer(chosen.tokenizer):
        found = f"{folder} has no tokenizer."
        todo = "Copy tokenizer.json and tokenizer_config.json of the model there."
        raise UserError("eval-tokenizer-absent", found, todo)
    if how.backend == "vllm" and (adapter or options["quantisation"] != "none"):
        found = f"{path} is an adapter, or its weights are to be quantised."
        todo = "Merge the adapter first (nsllm-lite merge), or set execution.backend=transformers."
        raise UserError("vllm-not-whole", found, "The vLLM backend takes whole 16-bit models.", todo)
    return Found(folder, adapter, options, chosen, ends, template)


def open_engine(
    path: str,
    *,
    device: str,
    how: EvalExecution,
    quantisation: str = "none",
    tokenizer_from: str | None = None,
    constrain: bool = False,
) -> "Engine | VllmEngine":
    """The engine of what `find_model` finds, one that takes schemas with `constrain`. Raises UserError as that does,
    and where its files are not whole.

    A class that is not trained here, and weights that are quantised on disk, are taken as transformers takes them; the
    engine's `notes` say so.
    """
    told = {"quantisation": quantisation, "tokenizer_from": tokenizer_from}
    found = find_model(path, how=how, **told)
    folder, adapter, options, chosen = found[:4]
    config, notes = safety.require_plain_model(folder), []
    if held := quantisation_of(folder, config):
        notes.append(f"its {'base is' if adapter else 'weights are'} quantised on disk ({held}), and taken so")
    if found.template == "plain":
        notes.append("instructions are asked in the plain prompt that it was tuned in")
    if how.backend == "vllm":
        from nsllm_lite.models.vllm_engine import open_vllm

        opened = open_vllm(folder, found.load_tokenizer(), notes, constrain)
        opened.tuned_in = found.template
        return opened
    if not is_accepted(config):
        kind = config.get("model_type")
        notes.append(f"model_type={kind!r} is not trained here: each prompt goes alone through transformers' forward")
    options["compute_dtype"] = options["compute_dtype"] or ("float32" if device == "cpu" else "bfloat16")
    if adapter:
        require_same_files(folder, adapter, read_training(adapter), require_sound(folder))
    loaded = load_base(folder, device=device, as_stored=True, **options)
    model = load_adapter(loaded, adapter) if adapter else loaded
    if chosen.tokenizer != folder:
        require_known(chosen, model.get_input_embeddings().weight.shape[0])
    engine = Engine if is_accepted(config) else AloneEngine
    opened = engine(model, found.load_tokenizer(), how.batch_tokens, notes, found.ends)
    opened.tuned_in = found.template
    return opened
