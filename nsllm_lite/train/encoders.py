"""What the trainings of encoders share: rows at a time, what has to fit together, and the folder that they leave."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nsllm_lite.artifact import integrity
from nsllm_lite.artifact.disk import GIB, replace_folder
from nsllm_lite.artifact.json_files import read_object, write_json
from nsllm_lite.errors import UserError
from nsllm_lite.formats.rows import Rows
from nsllm_lite.formats.tokenizer import save_tokenizer
from nsllm_lite.models.device import Card
from nsllm_lite.models.encoder import PackedEncoder, positions_of, require_vocabulary
from nsllm_lite.models.execution import USABLE_SHARE
from nsllm_lite.recipe.distill import Distill
from nsllm_lite.recipe.mlm import Mlm
from nsllm_lite.recipe.train import Execution

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

MICRO_BATCH_TOKENS = {"cpu": 4_096, "cuda": 16_384}


class Size(NamedTuple):
    """Numbers of a model, as `outputs.output_bytes` needs them."""

    params: int
    linear_params: int = 0

    @classmethod
    def of(cls, model: "nn.Module") -> "Size":
        return cls(sum(parameter.numel() for parameter in model.parameters()))


def layer_bytes(compute_dtype: str, hidden: int, intermediate: int) -> int:
    """What autograd keeps of a token in a layer, as an estimate: some 16 results as wide as the hidden states and 6 as
    wide as the inner layer."""
    return (4 if compute_dtype == "float32" else 2) * (16 * hidden + 6 * intermediate)


def choose_execution(recipe: Mlm | Distill, need: Callable[[int], int], row_tokens: int, card: Card) -> Execution:
    """As many rows at a time as divide a step, have at most MICRO_BATCH_TOKENS and are estimated to fit the card:
    `need` is the memory of so many tokens at a time."""
    count = recipe.budget.tokens_per_step // row_tokens
    memory_gib = recipe.execution.memory_gib or (card.memory_bytes or 0) / GIB
    fitting = [1] + [
        rows
        for rows in range(2, count + 1)
        if count % rows == 0
        and rows * row_tokens <= MICRO_BATCH_TOKENS[card.device]
        and (not memory_gib or need(rows * row_tokens) <= USABLE_SHARE * memory_gib * GIB)
    ]
    rows = recipe.execution.micro_batch_rows or fitting[-1]
    return Execution(micro_batch_rows=rows, device=card.device, memory_gib=recipe.execution.memory_gib)


def require_heldout(named: Mapping[str, Rows]) -> None:
    """Raises UserError where rows to score on, by the name of their setting, are none."""
    for key, rows in named.items():
        if not len(rows):
            found = f"{rows.path} (evaluation.{key}) holds no rows."
            todo = "Build its corpus with a larger heldout.share, or name other rows."
            raise UserError("encoder-heldout-empty", found, "The training would end without a score.", todo)


def require_fitting(model: "PreTrainedModel", num_tokens: int, row_tokens: int) -> None:
    """Raises UserError where a model has fewer tokens than its tokenizer, or takes shorter texts than the rows'."""
    require_vocabulary(model, num_tokens)
    positions = positions_of(model)
    if positions < row_tokens:
        found = f"The model takes texts of {positions:,} tokens; a row, and so a text, may have {row_tokens:,}."
        todo = "Build the corpus with a lower row_tokens, or take another model; "
        todo += f"mlm also extends one: max_positions={row_tokens}."
        raise UserError("mlm-positions-few", found, todo)


def tell_dropout(encoder: PackedEncoder, built: bool) -> None:
    """Prints what of the dropout that the config states is left out."""
    config = encoder.model.config
    if built:
        stated = getattr(config, "hidden_dropout_prob", getattr(config, "mlp_dropout", 0.0))  # the latter: ModernBERT
        print(f"What is built from nothing is trained without dropout; its config states {stated:g}, for fine-tuning.")
    elif encoder.dropout_left_out:
        print(f"Attention's own dropout of {encoder.dropout_left_out:g}, as the config has it, is left out.")


def save_encoder(model: "PreTrainedModel", tokenizer_dir: Path, out: Path) -> None:
    """The model with its tokenizer, in `out/model`; whole or absent."""
    part = out / "model.part"
    model.save_pretrained(part)
    save_tokenizer(tokenizer_dir, part)
    settings, positions = part / "tokenizer_config.json", positions_of(model)
    stated = read_object(settings) if settings.is_file() else {}
    if isinstance(stated.get("model_max_length"), int) and stated["model_max_length"] < positions:
        write_json(settings, stated | {"model_max_length": positions})  # else transformers would cut texts there
    names = {path.name for path in part.iterdir()}
    integrity.record(part, {name for name in names if name.endswith(".safetensors")}.union(integrity.BESIDE_WEIGHTS))
    replace_folder(part, out / "model")
