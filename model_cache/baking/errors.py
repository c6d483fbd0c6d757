"""What stops a bake, as one sentence for the person at the terminal."""


class BakeError(Exception):
    """The model cannot be baked as asked. The message says what is wrong and what to do; exit status 2."""


def root_cause(error: BaseException) -> str:
    """The first line of what started the chain of exceptions that ends in `error`, with its type."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}".rstrip(": .")
