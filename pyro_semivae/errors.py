"""The error of bad input."""


class InputError(ValueError):
    """Bad input from the user: the message names the argument, what came and what is accepted."""
