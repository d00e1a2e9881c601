"""The one error type for bad input: a sentence for the user, never a traceback."""


class InputError(Exception):
    """Something the user gave is wrong: says where, what was found, what was expected and what to do.

    A stage prints the sentence and exits with status 1; any other exception is a defect of ours, with its traceback.
    """
