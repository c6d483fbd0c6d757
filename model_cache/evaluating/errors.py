"""The error that ends an evaluation, as one sentence for the command line."""


class EvaluationError(Exception):
    """The models cannot be evaluated as requested. The message says why and what to do; exit status 2."""
