"""The widths of a decoder, and those of the Qwen3 bases."""

from dataclasses import dataclass
from pathlib import Path

from nsllm_lite.artifact.json_files import read_object
from nsllm_lite.errors import UserError
from nsllm_lite.models.architectures import require_accepted
from nsllm_lite.models.quantised import require_unquantised
from nsllm_lite.recipe.train import Adapter, ModelShape

FUSED = ("qwen3", "qwen2", "llama", "mistral")  # model types of `kernels.fused_layers.LAYERS`


@dataclass(frozen=True, slots=True)
class ModelSize:
    """The widths of a decoder, read from its config.json."""

    layers: int
    hidden: int
    intermediate: int
    query: int  # heads x head_dim
    key_value: int
    vocab: int
    tied: bool
    head_dim: int = 128
    fused: bool = True  # by `kernels.fused_layers`
    capped: bool = False  # attention's scores
    expert_params: int = 0  # of a layer; they are no linear modules: neither held in NF4 nor given an adapter

    @classmethod
    def of(cls, config: dict) -> "ModelSize":
        needed = ("num_attention_heads", "hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size")
        if missing := [key for key in needed if config.get(key) is None]:
            found = f"The model's config.json has no {', '.join(missing)}."
            needed = "Needed is a decoder-only language model of the Qwen or Llama kind."
            raise UserError("config-sizes-missing", found, needed, "Name another model.")
        sizes = {
            key: config[key] for key in (*needed, "head_dim", "num_key_value_heads") if config.get(key) is not None
        }
        if wrong := [f"{key}: {size!r}" for key, size in sizes.items() if type(size) is not int or size < 1]:
            found = f"The model's config.json has {', '.join(wrong)}."
            needed = "Needed are whole numbers above 0."
            raise UserError("config-sizes-invalid", found, needed, "Correct it, or fetch the model again.")
        heads, experts = (
            config["num_attention_heads"],
            config.get("num_experts") or config.get("num_local_experts") or 0,
        )
        inner = config.get("moe_intermediate_size", 0) if experts else config["intermediate_size"]
        head_dim = config.get("head_dim") or config["hidden_size"] // heads
        return cls(
            layers=config["num_hidden_layers"],
            hidden=config["hidden_size"],
            intermediate=inner * (config.get("num_experts_per_tok") or 1 if experts else 1),
            query=heads * head_dim,
            key_value=(config.get("num_key_value_heads") or heads) * head_dim,
            vocab=config["vocab_size"],
            tied=bool(config.get("tie_word_embeddings")),
            head_dim=head_dim,
            fused=config.get("model_type", "qwen3") in FUSED and config.get("hidden_act", "silu") == "silu",
            capped=bool(config.get("attn_logit_softcapping")),
            expert_params=3 * experts * inner * config["hidden_size"],
        )

    @classmethod
    def of_shape(cls, shape: ModelShape, vocab: int) -> "ModelSize":
        return cls.of(config_of(shape, vocab))

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """The linear modules of one layer: name -> (in, out)."""
        h, i, q, kv = self.hidden, self.intermediate, self.query, self.key_value
        attention = {"q_proj": (h, q), "k_proj": (h, kv), "v_proj": (h, kv), "o_proj": (q, h)}
        if self.expert_params:
            return attention
        return attention | {"gate_proj": (h, i), "up_proj": (h, i), "down_proj": (i, h)}

    @property
    def linear_params(self) -> int:
        return self.layers * sum(fan_in * fan_out for fan_in, fan_out in self.linears.values())

    @property
    def embedding_params(self) -> int:
        return self.vocab * self.hidden * (1 if self.tied else 2)

    @property
    def params(self) -> int:
        return self.linear_params + self.embedding_params + self.layers * self.expert_params

    def lora_params(self, adapter: Adapter) -> int:
        fans = (sum(fans) for name, fans in self.linears.items() if name in adapter.targets)
        return self.layers * adapter.rank * sum(fans)


def config_of(shape: ModelShape, vocab: int) -> dict[str, int | bool]:
    """The keys of a config.json that say what `shape` says."""
    return {
        "vocab_size": vocab, "hidden_size": shape.hidden_size, "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_layers, "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads, "head_dim": shape.head_dim,
        "tie_word_embeddings": shape.tied_embeddings,
    }  # fmt: skip


def read_size(model_dir: Path) -> ModelSize:
    """Raises UserError where config.json lacks the widths, or the model is quantised or of a kind not trained."""
    config = read_object(Path(model_dir) / "config.json")
    require_accepted(config)
    require_unquantised(Path(model_dir), config)
    return ModelSize.of(config)


def head_tied() -> UserError:
    found = "This model ties its head to its embeddings: they are one tensor."
    return UserError("adapter-head-tied", found, "To train it, name embed_tokens alone in adapter.modules_to_save.")


def flops_per_token(size: ModelSize) -> int:
    """By the 4N convention: forward and input gradients of the frozen products, recomputation not counted."""
    return 4 * (size.linear_params + size.vocab * size.hidden)


QWEN3 = {
    name: (f"Qwen/Qwen3-{name.upper()}-Base", min_gib, ModelSize(layers, hidden, inner, query, 1024, 151_936, tied))
    for name, min_gib, layers, hidden, inner, query, tied in (
        ("14b", 40, 40, 5120, 17_408, 5120, False),
        ("8b", 22, 36, 4096, 12_288, 4096, False),
        ("4b", 15, 36, 2560, 9728, 4096, True),
        ("1.7b", 10, 28, 2048, 6144, 2048, True),
        ("0.6b", 6, 28, 1024, 3072, 2048, True),
    )
}
"""Size -> (hub id, GiB of GPU memory it asks for, widths). Source: the models' config.json on the hub."""

REFERENCE = "8b"  # NSLLM's base: the largest that is taken unasked, whatever more would fit

SIZED = "qwen3"  # the recipe folder that serves all sizes; its files state the reference
