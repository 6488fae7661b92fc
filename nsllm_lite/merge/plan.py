"""Where every tensor of a merged model comes from, decided before the first byte is written.

Every tensor of an adapter has a place in the base, or the merge fails and names it.
"""

import math
import re
from dataclasses import dataclass, field, replace

from nsllm_lite.errors import UserError
from nsllm_lite.formats.weights import FLOATS, ITEM_BYTES, TensorOnDisk, listed, same_bytes
from nsllm_lite.merge import nf4
from nsllm_lite.merge.inputs import Adapter, Base
from nsllm_lite.recipe.merge import Merge

DTYPE_NAMES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
HEAD = "lm_head.weight"
TOKEN_ROWS = ".token_adapter.trainable_tokens_delta"
LINEAR_PARTS, EMBEDDING_PARTS = ("A.weight", "B.weight"), ("embedding_A", "embedding_B")
MAGNITUDE = "magnitude_vector"
SAVE_AGAIN = "save the adapter again with PEFT's save_pretrained."


@dataclass(frozen=True, slots=True)
class Lora:
    """One module's update: s B A, and for DoRA the magnitude m_O. On an embedding it is the transposed s (B A)^T."""

    A: TensorOnDisk
    B: TensorOnDisk
    scale: float
    magnitude: TensorOnDisk | None = None
    on_embedding: bool = False


@dataclass(frozen=True, slots=True)
class TokenRows:
    """Rows of the embeddings that were trained by themselves (trainable_token_indices): `values` replace them."""

    indices: tuple[int, ...]
    values: TensorOnDisk


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """One tensor of the result: `source`, if `rounded` to NF4 first, with `updates` in turn, in `dtype`."""

    source: TensorOnDisk
    dtype: str
    updates: tuple[Lora | TokenRows, ...] = ()
    replaced: bool = False  # `source` is an adapter's
    linear: bool = False  # a weight that QLoRA training holds in NF4
    rounded: bool = False  # begin with the NF4 rounding of `source`

    @property
    def touched(self) -> bool:
        return bool(self.updates or self.replaced or self.rounded)

    @property
    def is_copy(self) -> bool:
        """Whether its bytes are those of `source`."""
        return not (self.updates or self.rounded) and self.dtype == self.source.dtype

    @property
    def num_bytes(self) -> int:
        return math.prod(self.source.shape) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class Plan:
    tensors: dict[str, PlannedTensor]
    untied: bool  # the base ties its embeddings, the result does not


def plan_merge(base: Base, adapters: list[Adapter], dtype_name: str | None) -> Plan:
    """Every tensor of the result by name, its weights in the dtype of that name or each in the base's own. Raises
    UserError where a tensor of an adapter has no place in the base, or does not fit there."""
    tied = bool(base.config.get("tie_word_embeddings")) or HEAD not in base.tensors
    dtype = DTYPE_NAMES.get(dtype_name)
    embedding = next((name for name in base.tensors if name.endswith("embed_tokens.weight")), None)
    linear = {n for n, t in base.tensors.items() if len(t.shape) == 2 and n.endswith(".weight")} - {HEAD, embedding}
    plan = {
        name: PlannedTensor(stored, dtype if dtype and stored.dtype in FLOATS else stored.dtype, linear=name in linear)
        for name, stored in base.tensors.items()
    }
    untied = False
    for adapter in adapters:
        loras, whole, rows = find_homes(base.tensors, adapter, tied, embedding)
        require_addable(adapter, [*whole, *rows], alone=len(adapters) == 1)
        untied |= replace_whole(plan, whole, adapter.settings, embedding if tied else None)
        for name, update in rows.items():
            V, *H = plan[name].source.shape
            fits = update.values.shape == (len(update.indices), *H) and max(update.indices) < V
            require_fit(name, fits, f"{update.values.shape} for {len(update.indices)} tokens", (V, *H))
            plan[name] = replace(plan[name], updates=(*plan[name].updates, update))
        for module, parts in loras.items():
            name = f"{module}.weight"
            update = lora_update(module, parts, adapter, plan[name].source.shape)
            plan[name] = replace(plan[name], updates=(*plan[name].updates, update))
    strange = [name for adapter in adapters for name, t in adapter.tensors.items() if t.dtype not in FLOATS]
    strange += [name for name, p in plan.items() if p.touched and p.dtype not in FLOATS]
    if strange:
        found = f"{listed(strange)} of the base or the adapter is not bf16, fp16 or fp32, the only types merged."
        todo = "Name the model as it was before it was quantised as base=DIR."
        raise UserError("merge-dtype-unsupported", found, todo)
    return Plan(plan, untied)


def require_addable(adapter: Adapter, replaced: list[str], alone: bool) -> None:
    """Raises UserError where an adapter that is one of several, or has a weight, is more than an added update."""
    what = [f"replaces {listed(replaced)} as a whole"] if replaced else []
    what += ["has DoRA magnitudes, which hold for its own base"] if adapter.settings.get("use_dora") else []
    if what and not alone:
        found = f"{adapter.folder} {' and '.join(what)}, so that it cannot be one of several."
        todo = "Merge them one after the other: the second into the folder that the first merge writes."
        raise UserError("merge-not-one-of-several", found, todo)
    if what and adapter.weight != 1:
        found = f"{adapter.folder} has weight {adapter.weight}, but it {' and '.join(what)}: a weight has no meaning."
        raise UserError("merge-weight-meaningless", found, "Leave the weight out.")


@dataclass(frozen=True, slots=True)
class Rounding:
    """How training quantised: in which dtype it had the base, whether doubly, and what it wrote down of each weight."""

    dtype: str | None = None  # None: in that of the base
    double: bool = False
    on_card: bool = False
    means: dict[str, float | None] = field(default_factory=dict)
    scales: dict[str, TensorOnDisk] = field(default_factory=dict)

    def held(self, name: str) -> nf4.Held:
        """Raises UserError where scales were written down, but not those of this weight."""
        module = name.removesuffix(".weight")
        mean = self.means.get(module)
        if not self.scales:
            return nf4.Held(self.on_card, mean)
        names = (f"{module}.absmax", f"{module}.nested_absmax", "code")
        missing = [name for name in names if name not in self.scales or not self.scales[name].shape]
        if missing or mean is None:
            found = f"{next(iter(self.scales.values())).file} or nf4.json beside it has no {(missing or [module])[0]}."
            raise UserError("merge-nf4-scales-missing", found, "Copy the adapter's folder again.")
        return nf4.Held(self.on_card, mean, *(self.scales[name].rows() for name in names))


EXACT = Rounding()


def on_rounding(plan: Plan, adapters: list[Adapter], recipe: Merge) -> tuple[Plan, Rounding]:
    """The plan on the weights that training saw: those it held in NF4 are rounded first, and only those. Raises
    UserError where the training was not in NF4, or it is not stated how it quantised."""
    adapter = next((adapter for adapter in adapters if adapter.training), adapters[0])
    quantisation = adapter.training.get("quantisation", "nf4")
    double = adapter.training.get("double_quantisation", recipe.double_quantisation)
    if quantisation != "nf4":
        found = f"{adapter.folder} was trained on weights that were not rounded to NF4 (quantisation: {quantisation})."
        raise UserError("merge-not-trained-in-nf4", found, "Merge it with base_weights=original.")
    if double is None:
        found = f"{adapter.folder} does not state how its training quantised (no training.json)."
        todo = "double_quantisation=true or false (bnb_4bit_use_double_quant of that training)."
        raise UserError("merge-quantisation-not-stated", found, "To add it to the rounded base, state it:", todo)
    linear = {name for name, planned in plan.tensors.items() if planned.linear}
    names = {f"{module}.weight" for module in adapter.nf4_means} or linear
    if strange := names - linear:
        found = f"{adapter.folder}/nf4.json names {listed(sorted(strange))}, which the base does not have."
        raise UserError("merge-nf4-names-unknown", found, "Set base=DIR to the model the adapter was trained on.")
    tensors = {name: replace(planned, rounded=name in names) for name, planned in plan.tensors.items()}
    dtype = DTYPE_NAMES.get(adapter.training.get("compute_dtype"))
    # our own trainings state the device, but for the oldest, which were on a CPU; others' adapters come from cards
    on_card = adapter.training.get("device", "cpu" if adapter.training else "cuda") == "cuda"
    return Plan(tensors, plan.untied), Rounding(dtype, double, on_card, adapter.nf4_means, adapter.nf4_scales)


def find_homes(
    base: dict[str, TensorOnDisk], adapter: Adapter, tied: bool, embedding: str | None
) -> tuple[dict[str, dict[str, TensorOnDisk]], dict[str, TensorOnDisk], dict[str, TokenRows]]:
    """LoRA parts by module, whole tensors by the name of the base's they replace, trained rows by the embedding's.
    Raises UserError where a tensor has no place, lacks its partner, or is LoRA on tied embeddings."""
    tensors, settings = adapter.tensors, adapter.settings
    if tied and (bad := [n for n in tensors if ".lora_embedding_" in n or n.startswith("lm_head.lora_")]):
        found = f"The adapter holds LoRA on tied embeddings: {listed(bad)}."
        needed = "The update would count in the embedding and in the head, which training did not (PEFT's merge too):"
        todo = "train the embeddings whole, with modules_to_save, or leave them out of the targets."
        raise UserError("merge-lora-on-tied-embeddings", found, needed, todo)
    loras, whole, rows, orphans = {}, {}, {}, []
    for name, stored in tensors.items():
        module, lora, part = name.partition(".lora_")
        replaced = name.replace(".base_layer.", ".")  # PEFT saves the head's or the embedding's base beside its LoRA
        if replaced in base or (replaced == HEAD and tied and embedding):
            whole[replaced] = stored
        elif name.endswith(TOKEN_ROWS) and name.removesuffix(TOKEN_ROWS) + ".weight" in base:
            module = name.removesuffix(TOKEN_ROWS)
            rows[module + ".weight"] = TokenRows(token_indices(module, settings), stored)
        elif lora and module + ".weight" in base:
            loras.setdefault(module, {})[part] = stored
        else:
            orphans.append(name)
    for module, parts in loras.items():
        on_embedding = EMBEDDING_PARTS[0] in parts
        needed = set(EMBEDDING_PARTS if on_embedding else LINEAR_PARTS)
        needed |= {MAGNITUDE} if settings.get("use_dora") and not on_embedding else set()
        orphans += [f"{module}.lora_{part}" for part in parts if part not in needed or not needed <= set(parts)]
    if orphans:
        found = f"The adapter holds {listed(orphans)}, for which the base has no place."
        needed = "Every tensor of an adapter must fit a weight of the base (and LoRA needs its A and its B):"
        raise UserError("merge-no-place-in-base", found, needed, "set base=DIR to the model it was trained on.")
    for saved in settings.get("modules_to_save") or ():
        if not any(re.match(rf"(.*\.)?{re.escape(saved)}\.", name) for name in whole):
            found = f"adapter_config.json has {saved!r} in modules_to_save, but the adapter holds no such tensor."
            raise UserError("merge-saved-module-absent", found, "All that was trained must be merged:", SAVE_AGAIN)
    biases = [f"{module}.bias" for module in loras] if settings.get("bias", "none") != "none" else []
    if absent := [name for name in biases if name in base and name not in whole]:
        found = f"adapter_config.json has bias={settings['bias']!r}, but the adapter holds no {listed(absent)}."
        needed = "PEFT before 0.21 leaves out what lora_only trained of the biases, and the rest is not that model:"
        todo = "train again with PEFT 0.21 or newer, or, to do without them, set bias to 'none' in that file."
        raise UserError("merge-biases-absent", found, needed, todo)
    if settings.get("trainable_token_indices") and not rows:
        found = "adapter_config.json has trainable_token_indices, but the adapter holds no rows of embeddings."
        raise UserError("merge-token-rows-absent", found, "All that was trained must be merged:", SAVE_AGAIN)
    return loras, whole, rows


def token_indices(module: str, settings: dict) -> tuple[int, ...]:
    """PEFT takes a list for the embedding alone, or {module: list}."""
    stated = settings.get("trainable_token_indices") or {}
    lists = {"embed_tokens": stated} if isinstance(stated, list) else stated
    found = next((values for name, values in lists.items() if re.match(rf"(.*\.)?{re.escape(name)}$", module)), None)
    if not found or min(found) < 0 or len(set(found)) < len(found):
        found = f"{module} has trained rows, but trainable_token_indices in adapter_config.json is {found}."
        raise UserError("merge-token-indices-wrong", found, "It must state which rows they are:", SAVE_AGAIN)
    return tuple(found)


def replace_whole(
    plan: dict[str, PlannedTensor], whole: dict[str, TensorOnDisk], settings: dict, tied_to: str | None
) -> bool:
    """Puts the tensors that were trained whole in their places; whether this unties the embeddings.

    `tied_to` is the name of the embeddings where the base ties them. As in PEFT, training the head or the embeddings
    (or a copy of each) makes them two, unless ensure_weight_tying kept them one.
    """
    parts_ways = tied_to is not None and not {HEAD, tied_to}.isdisjoint(whole)
    unties = parts_ways and not settings.get("ensure_weight_tying")
    if unties:
        plan.setdefault(HEAD, plan[tied_to])
    for name, stored in whole.items():
        if name in plan:
            require_fit(name, stored.shape == plan[name].source.shape, stored.shape, plan[name].source.shape)
            plan[name] = replace(plan[name], source=stored, replaced=True)
        elif tied_to not in whole or not same_bytes(whole[tied_to], stored):
            found = f"The adapter's {name} is not its {tied_to}, although ensure_weight_tying keeps them one."
            raise UserError("merge-tied-weights-differ", found, "They must be equal:", SAVE_AGAIN)
    return unties


def lora_update(module: str, parts: dict[str, TensorOnDisk], adapter: Adapter, W: tuple[int, ...]) -> Lora:
    """The update of one module, whose weight has the shape `W`. Rank and alpha are those of the first pattern that
    matches, else the default. Source: peft 0.21 `LoraLayer.update_layer` and `set_scale`."""

    def setting(pattern: str, default: str) -> float:
        values = adapter.settings.get(pattern) or {}
        key = next((key for key in values if re.match(rf"(.*\.)?({key})$", module)), None)
        return adapter.settings[default] if key is None else values[key]

    on_embedding = EMBEDDING_PARTS[0] in parts
    A, B = (parts[part] for part in (EMBEDDING_PARTS if on_embedding else LINEAR_PARTS))
    magnitude = parts.get(MAGNITUDE)
    rank, alpha = setting("rank_pattern", "r"), setting("alpha_pattern", "lora_alpha")
    require_fit(module, A.shape[:1] == (rank,), f"A {A.shape}", f"rank {rank} in adapter_config.json")
    O, I = (W[1], W[0]) if on_embedding and len(W) == 2 else (W[0], W[-1])  # noqa: E741
    fits = len(W) == len(A.shape) == len(B.shape) == 2 and (O, I, A.shape[0]) == (B.shape[0], A.shape[1], B.shape[1])
    fits = fits and (not magnitude or magnitude.shape == W[:1])
    require_fit(f"{module}.weight", fits, f"A {A.shape}, B {B.shape}", W)
    scale = adapter.weight * alpha / (math.sqrt(rank) if adapter.settings.get("use_rslora") else rank)
    return Lora(A, B, scale, magnitude, on_embedding)


def require_fit(name: str, fits: bool, found: object, needed: object) -> None:
    if not fits:
        found = f"{name}: the adapter has {found}, which does not fit {needed}."
        needed = "Shapes must agree:"
        raise UserError("merge-shape-differs", found, needed, "set base=DIR to the model the adapter was trained on.")
