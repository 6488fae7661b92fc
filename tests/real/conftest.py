"""Real files of the formats that users bring, for those who have them: NSLLM_REAL_DATA names their folder."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    folder = os.environ.get("NSLLM_REAL_DATA")
    if not folder:
        pytest.skip("NSLLM_REAL_DATA is not set")
    return Path(folder)
