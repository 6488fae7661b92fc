"""Pico models as GGUF files, written by the gguf package as llama.cpp's converter does."""

import itertools
import json
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Types
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import AutoConfig, AutoModelForCausalLM

SHAPE = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4}
SHAPE |= {"num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "pad_token_id": 0}
NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "model.layers": "blk",
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
}  # fmt: skip
SCALES = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}
"""Where in a block of a type that the package does not quantise to its 16-bit scales lie."""


def train_tokenizer(cut, special=("<|endoftext|>", "<|im_start|>", "<|im_end|>"), **bpe) -> Tokenizer:
    """Of 340 tokens, with all bytes, on texts that hold what is asked later."""
    tokenizer = Tokenizer(BPE(**bpe))
    tokenizer.pre_tokenizer, tokenizer.decoder = cut, decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=337, initial_alphabet=alphabet, special_tokens=list(special), show_progress=False
    )
    tokenizer.train_from_iterator(["the theory isn't there, 1234 5678  \n\n  the\tend Ünïcode über λ"] * 9, trainer)
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in ("<think>", "</think>", "  x  ")])
    return tokenizer


BYTE_LEVEL = pre_tokenizers.ByteLevel(add_prefix_space=False)
DIGITS = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), BYTE_LEVEL])  # SmolLM's


def make_model(kind: str, vocab: int, **changes):
    """In fp32, with no weight zero."""
    torch.manual_seed(0)
    heads = {"head_dim": 128} if kind == "qwen3" else {}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SHAPE | heads, vocab_size=vocab, **changes))
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.1)
    return model.eval()


def write_gguf(path: Path, model, tokenizer: Tokenizer, kinds="F32", change=None, pre="smollm") -> Path:
    """`kinds` is the type of all matrices, or in turn of each; `change` is given the writer's keys and tensors."""
    config, tensors = model.config, {}
    keys = keys_of(config) | tokens_of(tokenizer, config.vocab_size, pre)
    turn = itertools.cycle([kinds] if isinstance(kinds, str) else kinds)
    for name, tensor in model.state_dict().items():
        values = tensor.float().numpy()
        if config.model_type == "llama" and ("q_proj" in name or "k_proj" in name):
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            values = values.reshape(heads, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        for ours, theirs in NAMES.items():
            name = name.replace(ours, theirs)
        if not (name == "output.weight" and config.tie_word_embeddings):
            tensors[name] = (values, next(turn) if values.ndim > 1 else "F32")
    if change:
        change(keys, tensors)
    writer = gguf.GGUFWriter(path, keys.pop("general.architecture"))
    for key, value in keys.items():
        add(writer, key, value)
    for name, (values, kind) in tensors.items():
        writer.add_tensor(name, values if kind is None else quantised(values, kind), raw_dtype=kind and Types[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add(writer: gguf.GGUFWriter, key: str, value) -> None:
    kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    kinds.get(type(value), writer.add_array)(key, value)


def quantised(values: np.ndarray, kind: str) -> np.ndarray:
    """As the package does; of other types, blocks of any bytes with small scales."""
    if kind not in SCALES:
        return gguf.quantize(values, Types[kind])
    block, block_bytes = gguf.GGML_QUANT_SIZES[Types[kind]]
    blocks = np.random.default_rng(0).integers(0, 256, (values.size // block, block_bytes), np.uint8)
    for place in SCALES[kind]:
        blocks[:, place : place + 2] = np.frombuffer(np.float16(0.01).tobytes(), np.uint8)
    return blocks.reshape(*values.shape[:-1], -1)


def keys_of(config) -> dict:
    kind, head_dim = config.model_type, getattr(config, "head_dim", None)
    of_kind = {
        "block_count": config.num_hidden_layers, "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size, "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads, "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps, "vocab_size": config.vocab_size,
        "rope.freq_base": float(config.rope_parameters["rope_theta"]),
    }  # fmt: skip
    if kind == "qwen3":
        of_kind |= {"attention.key_length": head_dim, "attention.value_length": head_dim}
    general = {"general.architecture": kind, "general.name": "Pico", "general.license": "apache-2.0"}
    return general | {f"{kind}.{key}": value for key, value in of_kind.items()}


def tokens_of(tokenizer: Tokenizer, vocab: int, pre: str) -> dict:
    """As `gguf.SpecialVocab` and convert_hf_to_gguf.py write them; ids without a token are padding."""
    names = {number: name for name, number in tokenizer.get_vocab().items()}
    added = {number: 3 if token.special else 4 for number, token in tokenizer.get_added_tokens_decoder().items()}
    tokens = [names.get(number, f"[PAD{number}]") for number in range(vocab)]
    merges = json_of(tokenizer)["model"]["merges"]
    values = {
        "model": "gpt2", "pre": pre, "tokens": tokens, "merges": [" ".join(pair) for pair in merges],
        "token_type": [added.get(number, 1 if number in names else 5) for number in range(vocab)],
        "eos_token_id": 2, "bos_token_id": 1, "padding_token_id": 2, "unknown_token_id": 0,
    }  # fmt: skip
    template = {"tokenizer.chat_template": "{% for message in messages %}{{ message['content'] }}{% endfor %}"}
    return {f"tokenizer.ggml.{key}": value for key, value in values.items()} | template


def json_of(tokenizer: Tokenizer) -> dict:
    return json.loads(tokenizer.to_str())
