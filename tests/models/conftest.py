from tests.evals.conftest import talker  # noqa: F401 (a fixture)
