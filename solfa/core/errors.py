"""The one error type that a user of solfa is meant to read."""


class UserError(ValueError):
    """A mistake that the caller can mend; its message is one sentence naming the value and the remedy.

    The command line prints the message and exits with code 2, without a traceback.
    """
