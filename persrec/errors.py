"""The one error that is meant for the person at the keyboard."""


class UserError(ValueError):
    """A fault in the user's input: says what was got, what was expected and what to do; shown without a traceback."""
