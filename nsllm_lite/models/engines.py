"""Opens the generation engine of a model: transformers, or vLLM."""

from pathlib import Path
from typing import TYPE_CHECKING

from nsllm_lite import safety
from nsllm_lite.artifact.json_files import read_json, read_object
from nsllm_lite.errors import UserError
from nsllm_lite.formats.tokenizer import Chosen, choose_tokenizer, require_known
from nsllm_lite.models.generate import Engine
from nsllm_lite.models.hub import resolve_model
from nsllm_lite.models.loading import load_base
from nsllm_lite.models.lora import load_adapter
from nsllm_lite.recipe.evals import EvalExecution

if TYPE_CHECKING:
    from nsllm_lite.models.vllm_engine import VllmEngine


def open_engine(
    path: str, *, device: str, how: EvalExecution, quantisation: str = "none", tokenizer_from: str | None = None
) -> "Engine | VllmEngine":
    """The engine of a model folder, a hub id, or an adapter's folder (with its base as its training held it).

    The tokenizer is that of `choose_tokenizer`.

    Raises:
        UserError: there is no such model, or it has no tokenizer, or the backend cannot take it.
    """
    folder, adapter = base_and_adapter(path)
    options = {"quantisation": quantisation, "double_quantisation": True, "compute_dtype": ""}
    if adapter and (adapter / "training.json").is_file():
        kinds = {"quantisation": str, "double_quantisation": bool, "compute_dtype": str}
        training = read_object(adapter / "training.json", **kinds)
        options = {name: training[name] for name in options}
    options["compute_dtype"] = options["compute_dtype"] or ("float32" if device == "cpu" else "bfloat16")
    chosen = tokenizer_of(path, tokenizer_from)
    files = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")
    if not any((chosen.tokenizer / name).is_file() for name in files):
        found = f"{folder} has no tokenizer."
        todo = "Copy tokenizer.json and tokenizer_config.json of the model there."
        raise UserError("eval-tokenizer-absent", found, todo)
    if how.backend == "vllm":
        from nsllm_lite.models.vllm_engine import open_vllm

        if adapter or options["quantisation"] != "none":
            found = f"{path} is an adapter, or its weights are to be quantised."
            todo = "Merge the adapter first (nsllm-lite merge), or set execution.backend=transformers."
            raise UserError("vllm-not-whole", found, "The vLLM backend takes whole 16-bit models.", todo)
        return open_vllm(folder)
    if adapter:
        safety.require_lora(read_json(adapter / "adapter_config.json"), adapter)
    loaded = load_base(folder, device=device, **options)
    model = load_adapter(loaded, adapter) if adapter else loaded
    if chosen.tokenizer != folder:
        require_known(chosen, model.get_input_embeddings().weight.shape[0])
    return Engine(model, chosen.load(), how.batch_tokens)


def base_and_adapter(path: str) -> tuple[Path, Path | None]:
    """The folder of the model at `path`; of an adapter's folder that of its base, and itself."""
    settings = Path(path) / "adapter_config.json"
    if not settings.is_file():
        return resolve_model(path), None
    base = read_object(settings, base_model_name_or_path=str)["base_model_name_or_path"]
    return resolve_model(base, settings), Path(path)


def tokenizer_of(path: str, tokenizer_from: str | None) -> Chosen:
    """That of a model, or what `choose_tokenizer` says of an adapter and its base."""
    folder, adapter = base_and_adapter(path)
    return choose_tokenizer(folder, [adapter], tokenizer_from) if adapter else choose_tokenizer(folder, [])
