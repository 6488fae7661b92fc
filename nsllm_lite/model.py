"""The model in training: a (quantised) base, LoRA on it, and the one forward over packed rows.

Every loss in this project goes through `PackedLM`, because a packed forward is silently wrong in two easy ways: with
a cache or with an attention mask, transformers lets documents see each other.
"""

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from nsllm_lite import recipe as recipes
from nsllm_lite import run, untrusted
from nsllm_lite.errors import UserError
from nsllm_lite.kernels.linear_cross_entropy import IGNORE, linear_cross_entropy, token_losses
from nsllm_lite.kernels.varlen_attention import Layout, varlen_attention
from nsllm_lite.rows import Row
from nsllm_lite.tables import on_terminal
from nsllm_lite.weights import require_sound

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ATTENTION = "nsllm_packed"
LOADED_FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "README.md", "LICENSE*")
"""All that is ever fetched from a hub; the card tells the licence."""


# ------------------------------------------------------------------------------------------------------- weights


def resolve_model(name: str, named_by: Path | None = None) -> Path:
    """The directory of a model: `name` itself, or the hub's files in the local cache (fetched if need be).

    With `named_by`, a file that names the model, nothing is fetched: only the user's own word has that done.

    Raises:
        UserError: `name` is neither a directory nor a hub id ("owner/name") that can be had.
    """
    if Path(name).is_dir():
        if not (Path(name) / "config.json").is_file():
            raise UserError(
                "model-no-config",
                f"{name} is no model directory: it has no config.json.",
                "",
                "Name one that has, or a hub id.",
            )
        return Path(name)
    if name.startswith("runs/") or not untrusted.HUB_ID.fullmatch(name):
        raise UserError(
            "model-not-found",
            f"No model at {name}.",
            "Needed is a Hugging Face model directory or a hub id such as Qwen/Qwen3-8B-Base.",
            "If an earlier step should have written it, run that first (`make phase1` before `make phase2`).",
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        options = {"local_files_only": True} if named_by else {}
        kept = {"allow_patterns": list(LOADED_FILES), "ignore_patterns": "adapter_*"}  # that some leave with a model
        return Path(snapshot_download(name, **kept, **options))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        if named_by:
            raise UserError(
                "model-base-not-local",
                f"{named_by} names {name} as its base, which is not on this machine.",
                "A model is downloaded only where you name it yourself, not because a file names it.",
                f"If you trust it, fetch it (hf download {name}) and run the same command again.",
            ) from None
        raise UserError(
            "model-not-fetched",
            f"Model {name} could not be fetched from the hub ({type(error).__name__}).",
            "",
            "Check the id and the network; HF_ENDPOINT sets a mirror, HF_TOKEN a login, MODEL=DIR takes a local copy.",
        ) from error


def load_base(
    directory: Path,
    *,
    quantisation: str,
    double_quantisation: bool,
    compute_dtype: str,
    device: str,
    dequantised: bool = False,
) -> "PreTrainedModel":
    """The base model of `directory` on `device`, frozen; its linear layers in NF4 where `quantisation` says so.

    `dequantised` holds what NF4 made of their weights in `compute_dtype` instead: the same numbers in 3.9 times the
    memory, for products that need not restore them first.

    Raises:
        UserError: `directory` has no safetensors weights, or they are damaged, not finite, or not all there.
    """
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    _quiet_libraries()
    untrusted.require_plain_model(Path(directory))
    require_sound(Path(directory))
    dtype = getattr(torch, compute_dtype)
    options: dict = {}
    if quantisation == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=double_quantisation,
            bnb_4bit_compute_dtype=dtype,
        )
    _register_attention()
    model, loading = AutoModelForCausalLM.from_pretrained(
        directory,
        output_loading_info=True,
        dtype=dtype,
        device_map={"": device},
        attn_implementation=ATTENTION,
        use_safetensors=True,
        trust_remote_code=False,
        **options,
    )
    if missing := sorted(loading["missing_keys"]):
        raise UserError(
            "model-tensors-missing",
            f"{directory} holds no {', '.join(missing[:3])} ({len(missing)} of the model's tensors).",
            "Missing tensors would be drawn at random.",
            "Fetch or copy its weights again, or correct its config.json.",
        )
    _keep_nf4_layout(model)
    if device == "cpu":
        _require_widths_bitsandbytes_can(model)
    if dequantised:
        _dequantise(model, dtype)
    return model.requires_grad_(False)


def build_base(shape: recipes.ModelShape, tokenizer_dir: Path, end_of_text_id: int, seed: int) -> "PreTrainedModel":
    """A Qwen3-architecture model with random weights, drawn from `seed`, in fp32 on the CPU."""
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM, Qwen3Config

    vocab_size = Tokenizer.from_file(str(tokenizer_dir / "tokenizer.json")).get_vocab_size()
    config = Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        tie_word_embeddings=shape.tied_embeddings,
        max_position_embeddings=32_768,
        bos_token_id=end_of_text_id,
        eos_token_id=end_of_text_id,
        pad_token_id=end_of_text_id,
    )
    _quiet_libraries()
    _register_attention()
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config, attn_implementation=ATTENTION, dtype=torch.float32)


def add_adapter(model: "PreTrainedModel", adapter: recipes.Adapter, base: str, seed: int) -> "PeftModel":
    """LoRA in fp32 on `adapter.targets`, A drawn from `seed` and B zero; embeddings and head in fp32 where they train.

    Raises:
        UserError: a target names no linear layer of the model, or the head of tied embeddings is to train alone.
    """
    from peft import LoraConfig, get_peft_model

    modules = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    if missing := sorted(set(adapter.targets) - modules):
        raise UserError(
            "adapter-targets-unknown",
            f"adapter.targets {missing} name no linear layer of this model.",
            f"It has {sorted(modules - {'lm_head'})}.",
            "Correct adapter.targets.",
        )
    tied = bool(model.config.tie_word_embeddings)
    if tied and "lm_head" in adapter.modules_to_save:
        raise UserError(
            "adapter-head-tied",
            "This model ties its head to its embeddings: they are one tensor.",
            "",
            "To train it, name embed_tokens alone in adapter.modules_to_save.",
        )
    torch.manual_seed(seed)
    config = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        use_rslora=adapter.rslora,
        use_dora=adapter.dora,
        modules_to_save=list(adapter.modules_to_save) or None,
        ensure_weight_tying=tied and bool(adapter.modules_to_save),
        target_modules=list(adapter.targets),
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )
    peft_model = get_peft_model(model, config)
    config.base_model_name_or_path = base  # the recipe's name for it, not this machine's cache folder
    for parameter in saved_parameters(peft_model).values():
        parameter.data = parameter.data.float()
    dtypes = {p.dtype for p in peft_model.parameters() if p.requires_grad}
    assert dtypes == {torch.float32}, f"LoRA parameters must be fp32, found {dtypes}"
    return peft_model


def saved_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Of what is trained, the embeddings and the head."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad and ".modules_to_save." in name}


def load_adapter(model: "PreTrainedModel", directory: Path) -> "PeftModel":
    """A saved adapter on its base, for evaluation.

    Raises:
        UserError: `directory` holds no finished adapter.
    """
    from peft import PeftModel

    if not (Path(directory) / "adapter_model.safetensors").is_file():
        raise UserError("model-adapter-missing", f"No adapter at {directory}.", "", "Run its training phase first.")
    untrusted.require_lora(run.read_json(Path(directory) / "adapter_config.json"), Path(directory))
    require_sound(Path(directory))
    return PeftModel.from_pretrained(model, str(directory))


def load_tokenizer(directory: Path) -> "PreTrainedTokenizerBase":
    """Raises UserError where the tokenizer of a model's directory is damaged."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    except Exception as error:  # noqa: BLE001 (tokenizers raises nothing narrower)
        raise UserError(
            "model-tokenizer-unreadable",
            f"The tokenizer in {directory} cannot be read: {error}.",
            "",
            "Fetch or copy its files again.",
        ) from None


def nf4_means(model: nn.Module) -> dict[str, float | None]:
    """{module: mean of its blocks' absmax} of all that is held in NF4; None without double quantisation.

    The double quantisation is relative to this mean, whose last bits depend on the device and on the number of
    threads: who wants the same rounding again needs it.
    """
    means = {}
    for name, module in model.named_modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        short = name.removeprefix("base_model.model.").removesuffix(".base_layer")
        if state is not None:
            means[short] = state.offset.item() if state.nested else None
        elif hasattr(module, "nf4_mean"):
            means[short] = module.nf4_mean
    return means


def _dequantise(model: "PreTrainedModel", dtype: torch.dtype) -> None:
    """Puts an ordinary linear layer in the place of each NF4 one; its mean stays known to `nf4_means`."""
    from bitsandbytes.functional import dequantize_4bit

    means = nf4_means(model)
    for name in means:
        quantised = model.get_submodule(name)
        linear = nn.Linear(quantised.in_features, quantised.out_features, bias=False, device="meta")
        linear.weight = nn.Parameter(dequantize_4bit(quantised.weight.data, quantised.weight.quant_state).to(dtype))
        linear.bias, linear.nf4_mean = quantised.bias, means[name]
        model.set_submodule(name, linear)
    model.quantization_method = model.hf_quantizer = None
    model.is_quantized = model.is_loaded_in_4bit = False


def recompute_layers(model: "PreTrainedModel", count: int) -> None:
    """The first `count` layers keep only their input for the backward pass and are computed again there."""
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for layer in model.base_model.layers[count:]:
        layer.gradient_checkpointing = False


def _quiet_libraries() -> None:
    """No bars in logs and notebooks, and no warning about a CPU kernel that bitsandbytes would like to download."""
    from transformers.utils import logging as transformers_logging

    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    if not (sys.stderr.isatty() and on_terminal()):
        transformers_logging.disable_progress_bar()


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
            raise UserError(
                "nf4-width-on-cpu",
                f"{name} has {state.shape[-1]} inputs, for which bitsandbytes' NF4 kernel for CPUs gives wrong weights",
                "(it needs a multiple of 64).",
                "Use quantisation=none here, or a GPU.",
            )


# ----------------------------------------------------------------------------------------------------- attention


def _register_attention() -> None:
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, _attention)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention seam: (1, heads, T, D) each; `layout` comes from `PackedLM`, absent in `generate`."""
    layout: Layout | None = kwargs.get("layout")
    if layout is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling)
    if attention_mask is not None:
        raise AssertionError("a packed forward must not get an attention mask")
    # Rotation widens q and k where embeddings are trained in fp32; v has the dtype of the products
    out_THD = varlen_attention(
        *(x[0].transpose(0, 1).to(value.dtype) for x in (query, key, value)), layout=layout, scale=scaling, causal=True
    )
    return out_THD[None], None


# --------------------------------------------------------------------------------------------------- the forward


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows laid end to end: T tokens of several documents."""

    input_ids: Tensor  # (T,) int64
    position_ids: Tensor  # (T,) int64, from 0 in each document
    targets: Tensor  # (T,) int64: the next token of the same document, or IGNORE at its last
    layout: Layout
    doc_ids: list[str]
    doc_sources: list[str]
    doc_bytes: list[int]

    @property
    def num_targets(self) -> int:
        return len(self.input_ids) - len(self.doc_ids)

    def to(self, device: str) -> "Batch":
        """The same on `device`; what is pinned is copied without waiting for it."""
        if device == "cpu":
            return self
        names = ("input_ids", "position_ids", "targets")
        moved = {name: getattr(self, name).to(device, non_blocking=True) for name in names}
        bounds = self.layout.bounds_tensor.to(device, non_blocking=True)
        return replace(self, **moved, layout=replace(self.layout, bounds_tensor=bounds))


def autocast(device: str, compute_dtype: str) -> torch.autocast:
    """The context of every forward: products in `compute_dtype`."""
    return torch.autocast(device, dtype=getattr(torch, compute_dtype), enabled=compute_dtype != "float32")


def collate(rows: Sequence[Row], device: str) -> Batch:
    """`lay_out` on `device`."""
    return lay_out(rows, pinned=device == "cuda").to(device)


def lay_out(rows: Sequence[Row], pinned: bool) -> Batch:
    """Joins rows without padding, in host memory. A document never continues from one row into the next."""
    lengths = np.concatenate([np.asarray(row.doc_lengths, dtype=np.int64) for row in rows])
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    input_ids = np.concatenate([row.input_ids for row in rows]).astype(np.int64)
    targets = np.append(input_ids[1:], IGNORE)
    targets[bounds[1:] - 1] = IGNORE
    position_ids = np.arange(len(input_ids)) - np.repeat(bounds[:-1], lengths)

    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).pin_memory() if pinned else torch.from_numpy(array)

    return Batch(
        input_ids=tensor(input_ids),
        position_ids=tensor(position_ids),
        targets=tensor(targets),
        layout=Layout(tuple(bounds.tolist()), tensor(bounds.astype(np.int32))),
        doc_ids=[name for row in rows for name in row.doc_ids],
        doc_sources=[name for row in rows for name in row.doc_sources],
        doc_bytes=[count for row in rows for count in row.doc_bytes],
    )


class PackedLM(nn.Module):
    """A causal language model over packed batches. `forward` gives the summed loss, so that DDP's hooks see it.

    `head` computes that loss (see `linear_cross_entropy`).
    """

    def __init__(self, model: "PreTrainedModel | PeftModel", head: Literal["liger", "chunked"] | None = None):
        super().__init__()
        self.model = model
        self.head = head

    def hidden(self, batch: Batch) -> Tensor:
        """Hidden states after the last norm, (T, H)."""
        causal_lm = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        return causal_lm.base_model(
            input_ids=batch.input_ids[None],
            position_ids=batch.position_ids[None],
            attention_mask=None,
            use_cache=False,
            layout=batch.layout,
        ).last_hidden_state[0]

    @property
    def head_VH(self) -> Tensor:  # noqa: N802
        return self.model.get_output_embeddings().weight

    def forward(self, batch: Batch) -> Tensor:
        """Cross-entropy in nats, summed over `batch.num_targets` tokens, fp32."""
        return linear_cross_entropy(self.hidden(batch), self.head_VH, batch.targets, self.head)

    def losses(self, batch: Batch) -> Tensor:
        """Loss of each token, (T,), 0 at the last of each document; no gradient."""
        with torch.no_grad():
            return token_losses(self.hidden(batch), self.head_VH, batch.targets)

    def logits(self, batch: Batch) -> Tensor:
        """All logits, (T, V); for small checks only."""
        with torch.no_grad():
            return self.hidden(batch) @ self.head_VH.T
