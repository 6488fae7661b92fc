"""What ends a verb: errors with a stable code, so that tests and scripts do not depend on their wording."""


class _Coded:
    """`code` is in kebab-case and does not change; the words may. What was found, what is needed, what to do."""

    def __init__(self, code: str, found: str, needed: str = "", todo: str = ""):
        self.code, self.found, self.needed, self.todo = code, found, needed, todo
        super().__init__(" ".join(part for part in (found, needed, todo) if part))

    def __reduce__(self) -> tuple:
        """Errors cross from worker processes, which pickles them."""
        return type(self), (self.code, self.found, self.needed, self.todo)


class UserError(_Coded, ValueError):
    """The input is wrong, and the user can mend it; nothing is lost."""


class RunError(_Coded, RuntimeError):
    """The run stopped itself; what it finished is kept."""
