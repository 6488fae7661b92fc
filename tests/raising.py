"""Errors are matched by code and by the values they quote, never by their wording."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from nsllm_lite import cli
from nsllm_lite.errors import RunError, UserError


@contextmanager
def raises(code: str, *quoted: object) -> Iterator[pytest.ExceptionInfo]:
    """The block raises a UserError or RunError with `code` whose message quotes each of `quoted`."""
    with pytest.raises((UserError, RunError)) as caught:
        yield caught
    assert_error(caught.value, code, *quoted)


def assert_error(error: Exception, code: str, *quoted: object) -> None:
    assert error.code == code, f"{error.code}: {error}"
    for value in quoted:
        assert str(value) in str(error), f"{value!r} is not quoted in: {error}"


def fails(capsys: pytest.CaptureFixture, code: str, *words: str, status: int = 2) -> str:
    """What is printed to stderr by a command that ends with `status` and the error `code`."""
    assert cli.main(list(words)) == status
    text = capsys.readouterr().err
    assert f" [{code}]" in text
    return text
