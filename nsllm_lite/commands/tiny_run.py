"""A tiny model, its rows and a short training of it, for the checks of `doctor`."""

import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from nsllm_lite.artifact.json_files import write_json
from nsllm_lite.formats.rows import Row, Rows, RowTotals, write_rows
from nsllm_lite.models.device import find_device
from nsllm_lite.models.loading import build_base, load_base
from nsllm_lite.recipe import load as recipes
from nsllm_lite.recipe.train import ModelShape, Train

VOCAB, END_OF_TEXT, ROW_TOKENS = 300, 0, 64
RECIPE = tomllib.loads(Path(__file__).with_name("tiny_run.toml").read_text(encoding="utf-8"))
STEPS, ALL_LINEAR = RECIPE["budget"]["steps"], RECIPE["adapter"]["targets"]


@dataclass
class TinyRun:
    """A tiny model with its rows, in a folder that goes away."""

    folder: Path
    device: str

    @property
    def compute_dtype(self) -> str:
        if self.device == "cpu":
            return "float32"
        return "bfloat16" if find_device(self.device).has_bfloat16 else "float16"

    @cached_property
    def base(self) -> Path:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers

        folder = self.folder / "base"
        folder.mkdir()
        tokenizer = Tokenizer(models.BPE({f"<{i}>": i for i in range(VOCAB)}, []))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.save(str(folder / "tokenizer.json"))
        write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
        shape = ModelShape(
            tokenizer=str(folder), hidden_size=128, intermediate_size=256, num_layers=2, num_heads=4, num_kv_heads=2,
            head_dim=32, tied_embeddings=False,
        )  # fmt: skip
        build_base(shape, folder, END_OF_TEXT, seed=1).save_pretrained(folder)
        return folder

    @cached_property
    def rows(self) -> Path:
        return self._write_rows("rows", 24)

    @cached_property
    def heldout(self) -> Path:
        return self._write_rows("heldout", 2)

    def _write_rows(self, kind: str, count: int) -> Path:
        folder = self.folder / kind
        draw = np.random.default_rng(count)
        rows = []
        for number in range(count):
            cut = int(draw.integers(8, ROW_TOKENS - 8))
            ids = draw.integers(1, VOCAB, ROW_TOKENS).astype(np.int32)
            ids[[cut - 1, ROW_TOKENS - 1]] = END_OF_TEXT
            names = [f"{kind}-{number}-{part}" for part in range(2)]
            rows.append(Row(ids, [cut, ROW_TOKENS - cut], names, ["doctor"] * 2, [cut * 4, (ROW_TOKENS - cut) * 4]))
        write_rows(folder, rows, RowTotals(ROW_TOKENS, END_OF_TEXT, "doctor"))
        return folder

    def some_rows(self, count: int) -> list[Row]:
        rows = Rows(self.rows)
        return [rows[number] for number in range(count)]

    def load(self, quantisation: str) -> torch.nn.Module:
        options = {"double_quantisation": True, "compute_dtype": "float32", "device": self.device}
        return load_base(self.base, quantisation=quantisation, **options)

    def recipe(self, out: str) -> Train:
        rows, heldout = str(self.rows), str(self.heldout)
        values = RECIPE | {
            "out": str(self.folder / out), "model": str(self.base), "rows": rows, "replay": None,
            "compute_dtype": self.compute_dtype, "execution": {"device": self.device, "micro_batch_rows": 2},
            "evaluation": {"domain_rows": heldout, "general_rows": heldout, "every_steps": 2, "max_rows": 2},
        }  # fmt: skip
        return recipes.validate(values, "doctor")

    @cached_property
    def trained(self) -> Path:
        """The folder of a short run."""
        from nsllm_lite.train.cpt import train

        train(self.recipe("trained"))
        return self.folder / "trained"
