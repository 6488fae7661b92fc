"""Where every tensor of a merged model comes from, decided before the first byte is written.

Every tensor of an adapter has a place in the base, or the merge fails and names it.
"""

import math
import re
from dataclasses import dataclass, field, replace

from nsllm_lite.errors import UserError
from nsllm_lite.formats.adapter_names import PART, TOKEN_ROWS, matched, module_of, names_differ
from nsllm_lite.formats.weights import FLOATS, HEAD, ITEM_BYTES, TensorOnDisk, listed, same_bytes, ties_embeddings
from nsllm_lite.merge import nf4
from nsllm_lite.merge.inputs import Adapter, Base
from nsllm_lite.recipe.merge import Merge

DTYPE_NAMES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
HEAD_BIAS = "lm_head.bias"
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
    key: int | None = None  # of the random bits that round its sums (`stochastic.py`); None: they go to the nearest

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
    untied: bool  # the base's config ties its embeddings, the result's weights are two
    vocab_rows: int | None = None  # of embeddings that training resized


@dataclass(frozen=True, slots=True)
class Ties:
    """What the base says of its embeddings and its head, and what its weights are."""

    embedding: str | None  # the name of the embeddings
    stated: bool  # config.json ties them: PEFT heeds this
    tied: bool  # they are one: so it is where the head is not stored, or is a copy. transformers heeds this

    @classmethod
    def of(cls, base: Base) -> "Ties":
        """Source: transformers 5.17, `PreTrainedModel.tie_weights`: where both are stored, they are compared."""
        embedding = next((name for name in base.tensors if name.endswith("embed_tokens.weight")), None)
        if HEAD not in base.tensors:
            return cls(embedding, True, True)
        stated = embedding is not None and ties_embeddings(base.config)
        return cls(embedding, stated, stated and same_bytes(base.tensors[embedding], base.tensors[HEAD]))


def plan_merge(base: Base, adapters: list[Adapter], dtype_name: str | None) -> Plan:
    """Every tensor of the result by name, its weights in the dtype of that name or each in the base's own. Raises
    UserError where a tensor of an adapter has no place in the base, or does not fit there."""
    ties = Ties.of(base)
    dtype = DTYPE_NAMES.get(dtype_name)
    linear = {name for name, of in base.tensors.items() if len(of.shape) == 2 and name.endswith(".weight")}
    linear -= {HEAD, ties.embedding}
    plan = {
        name: PlannedTensor(stored, dtype if dtype and stored.dtype in FLOATS else stored.dtype, linear=name in linear)
        for name, stored in base.tensors.items()
        if name != HEAD or not ties.tied  # a copy follows the embeddings
    }
    untied = ties.stated and not ties.tied
    for adapter in adapters:
        loras, whole, rows = find_homes(base.tensors, adapter, ties)
        require_addable(adapter, [*whole, *rows], alone=len(adapters) == 1)
        untied |= replace_whole(plan, whole, adapter.settings, ties)
        for name, update in rows.items():
            V, *H = plan[name].source.shape
            count = len(update.indices)
            require_stated(name, update.values.shape[:1] == (count,), update.values.shape, f"{count} tokens")
            fits = update.values.shape[1:] == tuple(H) and max(update.indices) < V
            require_fit(name, fits, f"{update.values.shape} up to token {max(update.indices)}", (V, *H))
            plan[name] = replace(plan[name], updates=(*plan[name].updates, update))
        for module, parts in loras.items():
            name = f"{module}.weight"
            update = lora_update(module, parts, adapter, plan[name].source.shape)
            plan[name] = replace(plan[name], updates=(*plan[name].updates, update))
    if HEAD in base.tensors and HEAD not in plan:
        plan[HEAD] = plan[ties.embedding]
    plan = {name: plan[name] for name in dict.fromkeys([*base.tensors, *plan])}
    strange = [name for adapter in adapters for name, t in adapter.tensors.items() if t.dtype not in FLOATS]
    strange += [name for name, p in plan.items() if p.touched and p.dtype not in FLOATS]
    if strange:
        found = f"{listed(strange)} of the base or the adapter is not bf16, fp16 or fp32, the only types merged."
        todo = "Name the model as it was before it was quantised as base=DIR."
        raise UserError("merge-dtype-unsupported", found, todo)
    return Plan(plan, untied, resized_rows(base, plan, ties.embedding))


def resized_rows(base: Base, plan: dict[str, PlannedTensor], embedding: str | None) -> int | None:
    """Tokens of a vocabulary that training resized. Raises UserError where embeddings and head differ in rows."""
    rows = {name: plan[name].source.shape[0] for name in (embedding, HEAD, HEAD_BIAS) if name in plan}
    before = {name: base.tensors[name].shape[0] for name in rows if name in base.tensors}
    if all(rows[name] == count for name, count in before.items()):
        return None
    if len(set(rows.values())) > 1:
        found = f"Training resized the vocabulary, but the adapter does not hold all that has its rows: {rows}."
        needed = "PEFT leaves out the head beside LoRA on the embeddings:"
        raise UserError("merge-resized-in-part", found, needed, "train with both in modules_to_save.")
    return next(iter(rows.values()))


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
    return replace(plan, tensors=tensors), Rounding(dtype, double, on_card, adapter.nf4_means, adapter.nf4_scales)


def find_homes(
    base: dict[str, TensorOnDisk], adapter: Adapter, ties: Ties
) -> tuple[dict[str, dict[str, TensorOnDisk]], dict[str, TensorOnDisk], dict[str, TokenRows]]:
    """LoRA parts by module, whole tensors by the name of the base's they replace, trained rows by the embedding's.
    Raises UserError where a tensor has no place, lacks its partner, or is LoRA on tied embeddings."""
    tensors, settings, tied = adapter.tensors, adapter.settings, ties.tied
    if tied and (bad := [n for n in tensors if ".lora_embedding_" in n or n.startswith("lm_head.lora_")]):
        found = f"The adapter holds LoRA on tied embeddings: {listed(bad)}."
        needed = "The update would count in the embedding and in the head, which training did not (PEFT's merge too):"
        todo = "train the embeddings whole, with modules_to_save, or leave them out of the targets."
        raise UserError("merge-lora-on-tied-embeddings", found, needed, todo)
    loras, whole, rows, orphans = {}, {}, {}, []
    for name, stored in tensors.items():
        module, lora, part = name.partition(".lora_")
        # PEFT saves the head's or the embedding's base beside its LoRA or its rows
        replaced = name.replace(".token_adapter.base_layer.", ".").replace(".base_layer.", ".")
        if replaced in base or (replaced == HEAD and tied and ties.embedding):
            whole[replaced] = stored
        elif name.endswith(TOKEN_ROWS) and (of := name.removesuffix(TOKEN_ROWS) + ".weight") in {*base, HEAD}:
            rows[of] = stored
        elif lora and f"{module}.weight" in base:
            loras.setdefault(module, {})[part] = stored
        else:
            orphans.append(name)
    for module, parts in loras.items():
        on_embedding = EMBEDDING_PARTS[0] in parts
        needed = set(EMBEDDING_PARTS if on_embedding else LINEAR_PARTS)
        needed |= {MAGNITUDE} if settings.get("use_dora") and not on_embedding else set()
        orphans += [f"{module}.lora_{part}" for part in parts if part not in needed or not needed <= set(parts)]
    if orphans:
        raise no_place(orphans, {PART.sub("", name) for name in base})
    require_complete(base, adapter, loras, whole, rows)
    return loras, whole, token_rows(rows, settings, ties)


def no_place(orphans: list[str], homes: set[str]) -> UserError:
    """Which base or which adapter to name instead: a base with other modules is another, one with these is not."""
    found = f"The adapter holds {listed(orphans)}, for which the base has no place."
    needed = "Every tensor of an adapter must fit a weight of the base (and LoRA needs its A and its B):"
    if homes.issuperset(map(module_of, orphans)):
        return UserError("merge-no-place-in-base", found, needed, f"the base has their modules, so {SAVE_AGAIN}")
    todo = (
        f"the base has no such modules (it has {listed(sorted(homes))}): set base=DIR to the model it was trained on."
    )
    return names_differ(orphans, homes) or UserError("merge-no-place-in-base", found, needed, todo)


def require_complete(
    base: dict[str, TensorOnDisk], adapter: Adapter, loras: dict[str, dict], whole: dict, rows: dict
) -> None:
    """Raises UserError where adapter_config.json names what the adapter does not hold."""
    settings = adapter.settings
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


def token_rows(stored: dict[str, TensorOnDisk], settings: dict, ties: Ties) -> dict[str, TokenRows]:
    """The rows to replace, by the name of their tensor. Where config.json ties the head, PEFT trains and replaces the
    same rows of both, also of a head that is stored and differs; where it is a copy, it follows the embeddings."""
    if ties.stated and ties.embedding in stored:
        if HEAD in stored and not same_bytes(stored[HEAD], stored[ties.embedding]):
            raise tied_differ(HEAD, ties.embedding)
        stored = {name: rows for name, rows in stored.items() if name != HEAD}
    found = {
        name: TokenRows(token_indices(name.removesuffix(".weight"), settings), rows) for name, rows in stored.items()
    }
    if ties.stated and not ties.tied and ties.embedding in found:
        found[HEAD] = found[ties.embedding]
    return found


def token_indices(module: str, settings: dict) -> tuple[int, ...]:
    """PEFT takes a list for the embedding alone, or {module: list}."""
    stated = settings.get("trainable_token_indices") or {}
    lists = {"embed_tokens": stated} if isinstance(stated, list) else stated
    found = next((values for name, values in lists.items() if re.match(rf"(.*\.)?{re.escape(name)}$", module)), None)
    if not found or min(found) < 0 or len(set(found)) < len(found):
        found = f"{module} has trained rows, but trainable_token_indices in adapter_config.json is {found}."
        raise UserError("merge-token-indices-wrong", found, "It must state which rows they are:", SAVE_AGAIN)
    return tuple(found)


def replace_whole(plan: dict[str, PlannedTensor], whole: dict[str, TensorOnDisk], settings: dict, ties: Ties) -> bool:
    """Puts the tensors that were trained whole in their places; whether this unties the embeddings.

    As in PEFT, training the head or the embeddings (or a copy of each) makes them two, unless ensure_weight_tying kept
    them one. A tied pair that modules_to_save does not name is the base's own, resized.
    """
    embedding, ensured = ties.embedding, settings.get("ensure_weight_tying")
    mine = {HEAD, embedding} & whole.keys() if ties.tied else set()
    modules = [str(name).removesuffix(".weight") for name in (HEAD, embedding)]
    trained = any(module.endswith(saved) for saved in settings.get("modules_to_save") or () for module in modules)
    unties = bool(mine) and trained and not ensured
    if unties:
        plan.setdefault(HEAD, plan[embedding])
    elif mine == {HEAD}:  # which is the embeddings
        whole = whole | {embedding: whole[HEAD]}
    if ties.stated and not ties.tied and ensured and embedding in whole:
        whole = whole | {HEAD: whole[embedding]}
    for name, stored in whole.items():
        if name in plan:
            needed = plan[name].source.shape
            resized = name in (embedding, HEAD, HEAD_BIAS) and stored.shape[1:] == needed[1:] and stored.shape
            require_fit(name, resized or stored.shape == needed, stored.shape, needed)
            plan[name] = replace(plan[name], source=stored, replaced=True)
        elif embedding not in whole or not same_bytes(whole[embedding], stored):
            raise tied_differ(name, embedding)
    return unties


def tied_differ(name: str, embedding: str) -> UserError:
    found = f"The adapter's {name} is not its {embedding}, although training kept them one."
    return UserError("merge-tied-weights-differ", found, "They must be equal:", SAVE_AGAIN)


def lora_update(module: str, parts: dict[str, TensorOnDisk], adapter: Adapter, W: tuple[int, ...]) -> Lora:
    """The update of one module, whose weight has the shape `W`. Rank and alpha are those of the first pattern that
    matches, else the default. Source: peft 0.21 `LoraLayer.update_layer` and `set_scale`."""

    on_embedding = EMBEDDING_PARTS[0] in parts
    A, B = (parts[part] for part in (EMBEDDING_PARTS if on_embedding else LINEAR_PARTS))
    magnitude = parts.get(MAGNITUDE)
    rank, alpha = (
        matched(adapter.settings, *keys, module) for keys in (("rank_pattern", "r"), ("alpha_pattern", "lora_alpha"))
    )
    fits = A.shape[:1] == B.shape[-1:] == (rank,)
    require_stated(module, fits, f"A {A.shape}, B {B.shape}", f"rank {rank}")
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


def require_stated(name: str, fits: bool, found: object, stated: object) -> None:
    """Raises UserError where an adapter is not what its own settings say."""
    if not fits:
        found = f"{name}: the adapter has {found}, but adapter_config.json states {stated}."
        raise UserError("merge-adapter-contradicts", found, "Both must be of one training:", SAVE_AGAIN)
