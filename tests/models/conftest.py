import numpy as np
import pytest

from tests.evals.conftest import talker  # noqa: F401 (a fixture)

LENGTHS = (20, 7, 31)


@pytest.fixture
def documents():
    rng = np.random.default_rng(0)
    return [rng.integers(5, 60, length) for length in LENGTHS]
