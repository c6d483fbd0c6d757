"""The error that ends a bake, as one sentence for the command line."""


class BakeError(Exception):
    """The model cannot be baked as requested. The message says why and what to do; exit status 2."""


def root_cause(error: BaseException) -> str:
    """Type and first line of the exception at the root of `error`'s chain of causes."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}".rstrip(": .")
