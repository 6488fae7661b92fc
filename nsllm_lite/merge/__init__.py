from nsllm_lite.merge.merge import merge

__all__ = ["merge"]
