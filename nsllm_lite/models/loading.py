"""A base model in memory: loaded in 16 bits or NF4, or built from nothing."""

import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn

from nsllm_lite import safety
from nsllm_lite.artifact.json_files import read_object, without_marks, write_json
from nsllm_lite.errors import UserError
from nsllm_lite.formats.tokenizer import load_tokenizer
from nsllm_lite.formats.weights import require_sound
from nsllm_lite.models.architectures import is_accepted
from nsllm_lite.models.attention import ATTENTION, register_attention
from nsllm_lite.models.quantised import require_unquantised
from nsllm_lite.models.sizes import config_of
from nsllm_lite.recipe.train import ModelShape
from nsllm_lite.terminal import on_terminal

if TYPE_CHECKING:
    from transformers import PreTrainedModel


REFUSALS = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, StrictDataclassError)
"""What the architectures of transformers raise for a config.json that they do not understand."""
UNREADABLE = (*REFUSALS, AssertionError, OSError, ImportError)
"""What they raise for a whole folder: an index of padding beyond the vocabulary, a file or a library that is absent."""


def load_base(
    directory: Path,
    *,
    quantisation: str,
    double_quantisation: bool,
    compute_dtype: str,
    device: str,
    dequantised: bool = False,
    as_stored: bool = False,
) -> "PreTrainedModel":
    """The base model of `directory` on `device`, frozen; its linear layers in NF4 where `quantisation` says so.

    `dequantised` holds what NF4 made of their weights in `compute_dtype` instead: the same numbers in 3.9 times the
    memory, for products that need not restore them first. `as_stored` also takes weights that are quantised on disk,
    and classes that are not trained here, whose attention is then transformers' own choice.

    Raises:
        UserError: `directory` has no safetensors weights, or they are damaged, not finite, quantised, or not all there.
    """
    from transformers import BitsAndBytesConfig

    quiet_libraries()
    config = safety.require_plain_model(Path(directory))
    require_sound(Path(directory))
    if not as_stored or quantisation == "nf4":
        require_unquantised(Path(directory), config)
    dtype = getattr(torch, compute_dtype)
    options: dict = {}
    if quantisation == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=double_quantisation,
            bnb_4bit_compute_dtype=dtype,
        )
    register_attention()
    model, loading = from_folder(
        directory,
        output_loading_info=True,
        dtype=dtype,
        device_map={"": torch.cuda.current_device() if device == "cuda" else device},
        attn_implementation=ATTENTION if is_accepted(config) else None,
        **options,
    )
    require_none_missing(directory, loading["missing_keys"])
    _keep_nf4_layout(model)
    if device == "cpu":
        _require_widths_bitsandbytes_can(model)
    if dequantised:
        _dequantise(model, dtype)
    return model.requires_grad_(False)


def require_none_missing(directory: Path, missing: Iterable[str]) -> None:
    """Raises UserError where transformers found tensors of the model `missing` in its folder."""
    if names := sorted(missing):
        found = f"{directory} holds no {', '.join(names[:3])} ({len(names)} of the model's tensors)."
        todo = "Fetch or copy its weights again, or correct its config.json."
        raise UserError("model-tensors-missing", found, "Missing tensors would be drawn at random.", todo)


def require_savable(directory: Path) -> None:
    """Raises UserError where transformers would not write the model's generation config again, which a training of the
    whole model does at its end."""
    from transformers import GenerationConfig

    path = Path(directory) / "generation_config.json"
    path = path if path.is_file() else path.with_name("config.json")  # where older models state it
    try:
        GenerationConfig.from_dict(read_object(path)).validate(strict=True)
    except (ValueError, TypeError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        found = f"{path} contradicts itself: {' '.join(str(error).split())}"
        needed = "The trained model is saved with it at the end, which transformers would refuse then."
        raise UserError("generation-config-invalid", found, needed, "Correct or remove these values there.") from None


def from_folder(directory: Path, **options: Any) -> Any:
    """What transformers' `AutoModelForCausalLM.from_pretrained` gives, from safetensors and without code of the model.

    Raises:
        UserError: transformers refuses config.json, or the weights do not have its shapes.
    """
    from transformers import AutoModelForCausalLM

    try:
        with without_marks(Path(directory)) as folder:
            return AutoModelForCausalLM.from_pretrained(
                folder, use_safetensors=True, trust_remote_code=False, **options
            )
    except UNREADABLE as error:
        if isinstance(error, RuntimeError) and "memory" in str(error):
            raise
        raise refused_by_transformers(directory, error) from None


def require_known_config(directory: Path) -> None:
    """Raises UserError where transformers refuses config.json; no weights are read."""
    from transformers import AutoConfig

    try:
        with without_marks(Path(directory)) as folder:
            AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except UNREADABLE as error:
        raise refused_by_transformers(directory, error) from None


def refused_by_transformers(directory: Path, error: Exception) -> UserError:
    why = (str(error).strip().splitlines() or [""])[0]
    found = f"transformers cannot load {directory} ({type(error).__name__}: {why[:300]})."
    todo = (
        "Correct its config.json or fetch it again; a kind of model that is newer than transformers needs a newer one."
    )
    return UserError("model-not-loaded", found, todo)


def build_base(shape: ModelShape, tokenizer_dir: Path, end_of_text_id: int, seed: int) -> "PreTrainedModel":
    """A Qwen3-architecture model with random weights, drawn from `seed`, in fp32 on the CPU."""
    from transformers import AutoModelForCausalLM, Qwen3Config

    config = Qwen3Config(
        **config_of(shape, load_tokenizer(tokenizer_dir).get_vocab_size()),
        max_position_embeddings=32_768,
        bos_token_id=end_of_text_id,
        eos_token_id=end_of_text_id,
        pad_token_id=end_of_text_id,
    )
    quiet_libraries()
    register_attention()
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config, attn_implementation=ATTENTION, dtype=torch.float32)


class Nf4State(NamedTuple):
    """What double quantisation made of a weight's scales; on the CPU."""

    mean: float  # of the blocks' absmax
    absmax: torch.Tensor  # (blocks,) uint8, codes of absmax - mean
    nested_absmax: torch.Tensor  # (blocks / 256,) fp32
    code: torch.Tensor  # (256,) fp32, what the codes stand for


def nf4_states(model: nn.Module) -> dict[str, Nf4State | None]:
    """{module: its state} of all that is held in NF4; None without double quantisation.

    The codes depend on the device and on bitsandbytes' version, the mean's last bits even on the number of threads:
    who wants the same rounding again needs them.
    """
    states: dict[str, Nf4State | None] = {}
    for name, module in model.named_modules():
        short = name.removeprefix("base_model.model.").removesuffix(".base_layer")
        if hasattr(module, "nf4_state"):
            states[short] = module.nf4_state
        elif (state := getattr(getattr(module, "weight", None), "quant_state", None)) is not None:
            tensors = (state.absmax, state.state2.absmax, state.state2.code) if state.nested else ()
            states[short] = Nf4State(state.offset.item(), *(of.cpu() for of in tensors)) if state.nested else None
    return states


def save_nf4(model: nn.Module, folder: Path) -> None:
    """Writes how the weights were held: `nf4.json` ({module: mean or null}) and `nf4_scales.safetensors`."""
    from safetensors.torch import save_file

    states = nf4_states(model)
    write_json(folder / "nf4.json", {name: state and state.mean for name, state in states.items()})
    doubly = {name: state for name, state in states.items() if state}
    tensors = {f"{name}.{key}": getattr(of, key) for name, of in doubly.items() for key in ("absmax", "nested_absmax")}
    if doubly:
        save_file({"code": next(iter(doubly.values())).code, **tensors}, folder / "nf4_scales.safetensors")


def _dequantise(model: "PreTrainedModel", dtype: torch.dtype) -> None:
    """Puts an ordinary linear layer in the place of each NF4 one; its state stays known to `nf4_states`."""
    from bitsandbytes.functional import dequantize_4bit

    for name, state in nf4_states(model).items():
        quantised = model.get_submodule(name)
        linear = nn.Linear(quantised.in_features, quantised.out_features, bias=False, device="meta")
        linear.weight = nn.Parameter(dequantize_4bit(quantised.weight.data, quantised.weight.quant_state).to(dtype))
        linear.bias, linear.nf4_state = quantised.bias, state
        model.set_submodule(name, linear)
    model.quantization_method = model.hf_quantizer = None
    model.is_quantized = model.is_loaded_in_4bit = False


def recompute_layers(model: "PreTrainedModel", count: int) -> None:
    """The first `count` layers keep only their input for the backward pass and are computed again there."""
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for layer in model.base_model.layers[count:]:
        layer.gradient_checkpointing = False


def quiet_libraries() -> None:
    """No bars in logs and notebooks, and no warning about a CPU kernel that bitsandbytes would like to download."""
    from transformers.utils import logging as transformers_logging

    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    if not (sys.stderr.isatty() and on_terminal()):
        transformers_logging.disable_progress_bar()


@contextmanager
def without_report() -> Iterator[None]:
    """Without transformers' table of tensors that are missing or left over, where the caller judges them."""
    from transformers.utils import logging as transformers_logging

    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def _keep_nf4_layout(model: nn.Module) -> None:
    """Forbids bitsandbytes to repack NF4 weights for AVX512-BF16 at the first evaluation.

    The packed form has no backward: after one evaluation gradients, merges and saves go silently wrong.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _require_widths_bitsandbytes_can(model: nn.Module) -> None:
    """Raises UserError for layers that bitsandbytes restores wrongly on a CPU with AVX-512, without a word.

    Its kernel takes rows whose length is a multiple of 16, and scales them right only where it is one of 64 (seen with
    bitsandbytes 0.50; every published Qwen3, Llama and Mistral is fine).
    """
    for name, module in model.named_modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is not None and state.shape[-1] % 16 == 0 and state.shape[-1] % 64:
            found = f"{name} has {state.shape[-1]} inputs, no multiple of 64: NF4 gives wrong weights on a CPU."
            raise UserError("nf4-width-on-cpu", found, "Use quantisation=none here, or a GPU.")
