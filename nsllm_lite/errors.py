"""Errors that end a verb, with a stable code, so that tests and scripts do not depend on the wording."""

import difflib
from collections.abc import Iterable
from typing import Self

WRITE_ELSEWHERE = "write elsewhere with OUT=DIR (make) or out=DIR (nsllm-lite)"


class _Coded:
    """`code` is in kebab-case and does not change; the words may.

    After it come what was found, what is needed (left out where that is plain), and what to do.
    """

    def __init__(self, code: str, found: str, *rest: str):
        *needed, self.todo = rest or [""]
        self.code, self.found, self.needed = code, found, " ".join(needed)
        super().__init__(" ".join(part for part in (found, self.needed, self.todo) if part))

    def at(self, place: str) -> Self:
        """The same error, with where it was found."""
        return type(self)(self.code, f"{place}: {self.found}", self.needed, self.todo)

    def __reduce__(self) -> tuple:
        """Errors cross from worker processes, which pickles them."""
        return type(self), (self.code, self.found, self.needed, self.todo)


class UserError(_Coded, ValueError):
    """The input is wrong, and the user can mend it; nothing is lost."""


class RunError(_Coded, RuntimeError):
    """The run stopped itself; what it finished is kept."""


def not_installed(error: ModuleNotFoundError, extra: str) -> UserError:
    """The error for a library that one of the package's extras brings."""
    todo = f"Install it: pip install 'nsllm-lite[{extra}]'"
    return UserError("extra-not-installed", f"{error.name} is not installed.", f"This needs the extra `{extra}`.", todo)


def nearest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known word that is most like `word`; `cutoff`, from 0 to 1, is how like it must be."""
    return next(iter(difflib.get_close_matches(word, known, n=1, cutoff=cutoff)), None)


def did_you_mean(word: str, known: Iterable[str], otherwise: str, cutoff: float = 0.6) -> str:
    """A question that names the nearest known word; `otherwise` where none is like it."""
    near = nearest(word, known, cutoff)
    return f"Did you mean {near}?" if near else otherwise
