"""Where everything of a run lies, below the folder it is written to. Recipes state none of these paths."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths as they are typed and written in manifests; `root` as the user gave it."""

    root: str

    def step(self, name: str) -> str:
        """The folder of a step: corpus, phase1, model1, ..."""
        return f"{self.root}/{name}"

    def adapter(self, step: str) -> str:
        return f"{self.root}/{step}/adapter"

    @property
    def base(self) -> str:
        """The base model, where the run makes one."""
        return f"{self.root}/base/model"

    @property
    def converted(self) -> str:
        """The base model, where the run converts a GGUF file to it."""
        return f"{self.root}/converted"

    def rows(self, phase: str, split: str) -> str:
        """Packed rows: `phase` is phase1, phase2 or general, `split` train or heldout."""
        return f"{self.root}/corpus/rows/{phase}/{split}"

    @property
    def documents(self) -> str:
        return f"{self.root}/corpus/documents"

    @property
    def tokenizer(self) -> str:
        return f"{self.root}/corpus/tokenizer"

    def tasks(self, split: str) -> str:
        """Instruction files: `split` is train or test."""
        return f"{self.root}/tasks/{split}"
