"""Errors that end a verb, with a stable code, so that tests and scripts do not depend on the wording."""


class _Coded:
    """`code` is in kebab-case and does not change; the words may.

    After it come what was found, what is needed (left out where that is plain), and what to do.
    """

    def __init__(self, code: str, found: str, *rest: str):
        *needed, self.todo = rest or [""]
        self.code, self.found, self.needed = code, found, " ".join(needed)
        super().__init__(" ".join(part for part in (found, self.needed, self.todo) if part))

    def __reduce__(self) -> tuple:
        """Errors cross from worker processes, which pickles them."""
        return type(self), (self.code, self.found, self.needed, self.todo)


class UserError(_Coded, ValueError):
    """The input is wrong, and the user can mend it; nothing is lost."""


class RunError(_Coded, RuntimeError):
    """The run stopped itself; what it finished is kept."""
