"""nsllm-lite: adapt an open LLM to natural science by two-phase continued pretraining on one GPU."""

__version__ = "0.1.0"
