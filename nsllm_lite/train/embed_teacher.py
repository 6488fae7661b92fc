"""A teacher's embeddings of all texts of a run, made once and read from a file."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nsllm_lite import terminal
from nsllm_lite.artifact import interrupts
from nsllm_lite.artifact.disk import require_disk
from nsllm_lite.artifact.json_files import read_json, write_json
from nsllm_lite.models.embedding import Embedder, Role
from nsllm_lite.train.texts import Texts

BLOCK_TEXTS = 2_048


class TeacherTexts:
    """In fp16, (n, D) for the n texts that are used as queries and as documents; where the teacher has no prompts that
    tell these apart, each text once. What a killed run left half made is continued."""

    def __init__(self, teacher: Embedder, texts: Texts, used: Mapping[Role, np.ndarray], work: Path):
        print(f"The teacher is given the same texts, and cuts them at {teacher.max_tokens:,} tokens of its own.")
        told_apart = any(teacher.model.prompts.get(role) for role in used)
        if not told_apart:
            used = {"document": np.unique(np.concatenate(list(used.values())))}
        self._device, self._found, self._rows = teacher.model.device, {}, {}
        num_bytes = 2 * teacher.dimensions * sum(map(len, used.values()))
        require_disk(work, num_bytes, "the embeddings of the teacher")
        for role, numbers in used.items():
            self._rows[role] = np.full(len(texts), -1, np.int64)
            self._rows[role][numbers] = np.arange(len(numbers))
            self._found[role] = embedded(teacher, texts, numbers, role, work / f"teacher-{role}.float16")
        self._roles = ("query", "document") if told_apart else ("document", "document")

    def of(self, columns: Sequence[np.ndarray]) -> list[Tensor]:
        """(B, D) for each column of texts by number: queries, then documents."""
        tensors = []
        for place, column in enumerate(columns):
            role = self._roles[min(place, 1)]
            found = self._found[role][self._rows[role][column]].astype(np.float32)
            tensors.append(torch.from_numpy(found).to(self._device))
        return tensors


def embedded(teacher: Embedder, texts: Texts, numbers: np.ndarray, role: Role, path: Path) -> np.ndarray:
    """(n, D) fp16, mapped from `path`, which is made a block at a time."""
    marker = path.with_suffix(".json")
    done = read_json(marker)["texts"] if marker.is_file() and path.is_file() else 0
    found = np.memmap(path, np.float16, "r+" if done else "w+", shape=(len(numbers), teacher.dimensions))
    with terminal.progress(len(numbers), done, f"the teacher's {role}s", "text", leave=False) as bar:
        for first in range(done, len(numbers), BLOCK_TEXTS):
            block = numbers[first : first + BLOCK_TEXTS].tolist()
            found[first : first + len(block)] = teacher.encode([texts[number] for number in block], role)
            found.flush()
            write_json(marker, {"texts": first + len(block)})
            bar.update(len(block))
            interrupts.raise_if_requested()
    return found
