"""Functions are imported by name, so a test that replaces one replaces it wherever it is used."""

import sys
from collections.abc import Callable

import pytest


def patch_uses(monkeypatch: pytest.MonkeyPatch, function: Callable, replacement: Callable) -> None:
    """In every module of the package that knows `function` by its own name, as loaded so far."""
    name, found = function.__name__, False
    for module in [module for key, module in sys.modules.items() if key.startswith("nsllm_lite")]:
        if vars(module).get(name) is function:
            monkeypatch.setattr(module, name, replacement)
            found = True
    assert found, f"nobody uses {name}"
