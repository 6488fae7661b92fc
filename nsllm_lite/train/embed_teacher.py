"""A teacher's embeddings of all texts of a run, made once and read from a file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nsllm_lite import terminal
from nsllm_lite.artifact import interrupts
from nsllm_lite.artifact.json_files import read_json, write_json
from nsllm_lite.recipe.train import Execution
from nsllm_lite.train.embed_loss import Embedder
from nsllm_lite.train.embed_model import open_as_it_is
from nsllm_lite.train.texts import Texts

BLOCK_TEXTS = 2_048


class TeacherTexts:
    """In fp16, (n, D) for the n texts that are used. A file that a killed run left half made is continued."""

    def __init__(self, folder: Path, texts: Texts, used: np.ndarray, how: Execution, work: Path):
        model = open_as_it_is(folder).to(how.device).eval()
        print(f"{folder} teaches; given the same texts, it cuts them at {model.max_seq_length} tokens of its own")
        self._device, self._row = how.device, np.full(len(texts), -1, np.int64)
        self._row[used] = np.arange(len(used))
        shape, marker = (len(used), model.get_embedding_dimension()), work / "teacher.json"
        done = read_json(marker)["texts"] if marker.is_file() else 0
        path = work / "teacher.float16"
        self._found = np.memmap(path, np.float16, "r+" if done else "w+", shape=shape)
        embedder = Embedder(model, how.micro_batch_rows, "float32", 0)
        with terminal.progress(len(used), done, "embeddings of the teacher", "text", leave=False) as bar:
            for first in range(done, len(used), BLOCK_TEXTS):
                block = used[first : first + BLOCK_TEXTS].tolist()
                self._found[first : first + len(block)] = embedder.encode([texts[number] for number in block])
                self._found.flush()
                write_json(marker, {"texts": first + len(block)})
                bar.update(len(block))
                interrupts.raise_if_requested()

    def of(self, columns: Sequence[np.ndarray]) -> list[Tensor]:
        """(B, D) for each column of texts by number."""
        found = (self._found[self._row[column]].astype(np.float32) for column in columns)
        return [torch.from_numpy(one).to(self._device) for one in found]
