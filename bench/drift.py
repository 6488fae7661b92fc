"""What phase 2 should start from: model 1 merged (into which base?) and rounded again, or the base with adapter 1 kept.

    python bench/drift.py                  the nano chain
    python bench/drift.py --stories DATA   a small real Llama (stories260K) under DATA, on real papers there

    original      adapter 1 merged into the 16-bit base; phase 2 holds NF4 of that, adapter 2 is trained on it
    dequantized   adapter 1 merged into NF4(base), which is what it was trained on; the rest alike
    kept          NF4(base) and adapter 1 stay as they are, frozen; adapter 2 is trained on top of both

Prints held-out losses (mean over seeds, spread in brackets) of abstracts and of experimental sections: where phase 2
begins, as it is trained, and of the best 16-bit model that can be made of it.
"""

import argparse
import struct
import tempfile
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import yaml
from safetensors import safe_open

from nsllm_lite.cli import run_step
from nsllm_lite.commands.stories import Run, load_run
from nsllm_lite.formats.rows import Rows
from nsllm_lite.models import heldout
from nsllm_lite.models.causal import PackedLM
from nsllm_lite.models.loading import load_base
from nsllm_lite.models.lora import load_adapter
from nsllm_lite.recipe import load as recipes
from nsllm_lite.train import setup

NANO = Path(__file__).parents[1] / "recipes/nano"
PAPERS = ("arxiv_kaggle_snapshot", "arxiv_daily_jsonl", "pubmed_xml_mokztk", "plos_jats", "elife_jats")
HOW = {"double_quantisation": True, "compute_dtype": "float32", "device": "cpu"}


# ------------------------------------------------------------------------------------------- the real small Llama


def convert_stories(data: Path, folder: Path) -> Path:
    """llama2.c's stories260K as a Hugging Face folder. Source: karpathy/llama2.c, export.py and run.c."""
    from transformers import LlamaConfig, LlamaForCausalLM

    content = (data / "stories260K.bin").read_bytes()
    H, F, L, heads, kv_heads, V, length = struct.unpack("7i", content[:28])
    values = np.frombuffer(content, np.float32, offset=28)
    D = H // heads
    place = 0

    def take(*shape: int) -> torch.Tensor:
        nonlocal place
        place += int(np.prod(shape))
        return torch.from_numpy(values[place - int(np.prod(shape)) : place].reshape(shape).copy())

    def halves(weight: torch.Tensor, count: int) -> torch.Tensor:
        """RoPE turns neighbours there, halves here."""
        return weight.view(L, count, D // 2, 2, H).transpose(2, 3).reshape(L, count * D, H)

    state = {"model.embed_tokens.weight": take(V, H)}
    layers = {"input_layernorm": take(L, H), "self_attn.q_proj": halves(take(L, H, H), heads)}
    layers |= {
        "self_attn.k_proj": halves(take(L, kv_heads * D, H), kv_heads),
        "self_attn.v_proj": take(L, kv_heads * D, H),
    }
    layers |= {"self_attn.o_proj": take(L, H, H), "post_attention_layernorm": take(L, H)}
    layers |= {"mlp.gate_proj": take(L, F, H), "mlp.down_proj": take(L, H, F), "mlp.up_proj": take(L, F, H)}
    for name, weights in layers.items():
        state |= {f"model.layers.{number}.{name}.weight": weights[number] for number in range(L)}
    state["model.norm.weight"] = take(H)
    config = LlamaConfig(
        vocab_size=V, hidden_size=H, intermediate_size=F, num_hidden_layers=L, num_attention_heads=heads,
        num_key_value_heads=kv_heads, max_position_embeddings=length, rms_norm_eps=1e-5, rope_theta=10_000.0,
        tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    assert set(missing) <= {"lm_head.weight"}, missing
    model.save_pretrained(folder)
    convert_tokenizer(data / "tok512.bin", folder)
    return folder


def convert_tokenizer(path: Path, folder: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    content, place, pieces = path.read_bytes(), 4, []
    while place < len(content):
        score, length = struct.unpack("fi", content[place : place + 8])
        pieces.append((content[place + 8 : place + 8 + length].decode(), score))
        place += 8 + length
    names = ["<unk>", "<s>", "</s>", *(piece.replace(" ", "▁") for piece, _ in pieces[3:])]
    vocab = {name: number for number, name in enumerate(names)}
    scores = {name: score for name, (_, score) in zip(names, pieces, strict=True)}
    merges = [
        (name[:cut], name[cut:])
        for name in names
        for cut in range(1, len(name))
        if name[:cut] in vocab and name[cut:] in vocab
    ]
    merges.sort(key=lambda pair: -scores["".join(pair)])
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in names[:3]])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", bos_token="<s>").save_pretrained(folder)


def stories_recipes(data: Path, folder: Path) -> Path:
    """The nano recipes on real papers, for the small Llama."""
    shape = {"rank": 8, "alpha": 16, "rslora": False}
    evaluation = {"domain_rows": "x", "general_rows": "x", "every_steps": 100, "max_rows": 200}
    phase = {"budget": {"steps": 300, "tokens_per_step": 4096, "tokens": 300 * 4096}, "checkpoint_steps": 100}
    changes = {
        "corpus": {
            "sources": [{"name": name, "path": str(data / name)} for name in PAPERS],
            "general": [{"name": "wikitext2", "path": str(data / "general_wikitext2")}],
            "train_tokenizer": None, "tokenizer": "x", "row_tokens": 256, "end_of_text": "</s>",
            "heldout": {"share": 0.2, "general_share": 0.2, "max_papers": 200, "seed": 0},
        },
        "phase1": phase, "phase2": phase, "merge": {}, "report": {"max_rows": 200},
    }  # fmt: skip
    for name, change in changes.items():
        values = yaml.safe_load((NANO / f"{name}.yaml").read_text()) | change
        if name.startswith("phase"):
            values |= {"adapter": values["adapter"] | shape, "evaluation": evaluation}
            values["optimizer"]["learning_rate"] = 1e-3
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
    return folder


# ------------------------------------------------------------------------------------------------ the experiment


def keep_beside(model: torch.nn.Module, adapter: Path) -> torch.nn.Module:
    """`model` with the update of `adapter` added, frozen and unmerged, to what its linear layers give."""
    with safe_open(adapter / "adapter_model.safetensors", "pt") as file:
        lora = {name.removeprefix("base_model.model."): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    settings = yaml.safe_load((adapter / "adapter_config.json").read_text())
    scale = settings["lora_alpha"] / settings["r"]
    for name, A in lora.items():
        if ".lora_A." in name:
            module = model.get_submodule(name.partition(".lora_")[0])
            B = lora[name.replace(".lora_A.", ".lora_B.")]
            module.forward = lambda x, plain=module.forward, A=A, B=B: plain(x) + (x @ A.T) @ B.T * scale
    return model


def load_beside(adapter: Path, *arguments: object, load: Callable = load_base, **options: object) -> torch.nn.Module:
    return keep_beside(load(*arguments, **options), adapter)


def losses(
    sets: dict[str, list], directory: str, adapter: str | None, quantisation: str, kept: Path | None = None
) -> dict:
    model = load_base(Path(directory), quantisation=quantisation, **HOW)
    model = keep_beside(model, kept) if kept else model
    lm = PackedLM(load_adapter(model, Path(adapter)) if adapter else model)
    return {name: heldout.score(lm, rows, 4, "cpu")["all"].loss for name, rows in sets.items()}


def run_seed(chain: Run, root: Path, sets: dict[str, list]) -> dict[tuple[str, str], dict[str, float]]:
    """{(way, moment): losses by set}"""
    found = {}
    run_step(chain["phase1"])
    adapter1 = Path(chain["phase1"].out) / "adapter"
    base = chain["phase1"].model
    found["", "base"] = losses(sets, base, None, "none")
    found["", "adapter 1 on NF4(base)"] = losses(sets, base, str(adapter1), "nf4")

    def best_of(way: str, base: str, adapters: list[dict]) -> dict[str, float]:
        """Of the two merges the one with the lower loss on the experimental sections."""
        scored = []
        for choice in ("original", "dequantized"):
            out = f"{root}/{way}-{choice}"
            changes = {"base": base, "adapter": adapters, "out": out, "base_weights": choice, "then_requantize": False}
            run_step(recipes.update(chain["model2"], **changes))
            scored.append(losses(sets, out, None, "none"))
        return min(scored, key=lambda by_set: by_set["experiments"])

    for way in ("original", "dequantized", "kept"):
        out, model1 = f"{root}/{way}", base
        if way != "kept":
            model1 = f"{out}/model1"
            run_step(recipes.update(chain["model1"], out=model1, base_weights=way))
        phase2 = recipes.update(chain["phase2"], model=model1, out=f"{out}/phase2")
        kept = adapter1 if way == "kept" else None
        found[way, "begins"] = losses(sets, model1, None, "nf4", kept)
        with ExitStack() as patches:
            if kept:  # fused layers read the weight itself, past what is beside it
                patches.enter_context(mock.patch.object(setup, "load_base", partial(load_beside, kept)))
                patches.enter_context(mock.patch.object(setup, "use_fused_layers", return_value=0))
            run_step(phase2)
        adapter2 = f"{phase2.out}/adapter"
        found[way, "trained"] = losses(sets, model1, adapter2, "nf4", kept)
        adapters = [{"path": str(adapter1)}] if kept else []
        found[way, "best in 16 bits"] = best_of(way, model1, [*adapters, {"path": adapter2}])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stories", type=Path, metavar="DATA")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        folder, model = NANO, None
        if args.stories:
            (root / "recipes").mkdir()
            folder = stories_recipes(args.stories.resolve(), root / "recipes")
            model = str(convert_stories(args.stories / "weights_stories260K/data", root / "stories260K"))
        found = defaultdict(list)
        for seed in args.seeds:
            words = {phase: [f"seed={seed}"] for phase in ("phase1", "phase2")}
            chain = load_run(folder, model=model, out=str(root / "run"), overrides=words)
            run_step(chain["corpus"])
            if "base" in chain:
                run_step(chain["base"])
            adapter = f"{root}/{seed}/phase1/adapter"
            chain["phase1"] = recipes.update(chain["phase1"], out=f"{root}/{seed}/phase1")
            chain["model1"] = recipes.update(chain["model1"], adapter=adapter)
            rows = {"abstracts": "phase1", "experiments": "phase2"}
            sets = {
                label: heldout.sample_rows(Rows(root / f"run/corpus/rows/{phase}/heldout"), 200)
                for label, phase in rows.items()
            }
            for key, by_set in run_seed(chain, root / str(seed), sets).items():
                found[key].append(by_set)
    print("\n| | | abstracts | experiments |\n|---|---|---:|---:|")
    for (way, moment), scores in found.items():
        cells = []
        for label in ("abstracts", "experiments"):
            of = [by_set[label] for by_set in scores]
            cells.append(f"{np.mean(of):.4f} ({max(of) - min(of):.4f})")
        print(f"| {way} | {moment} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
