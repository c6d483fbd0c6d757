"""What stops a bake, as one sentence for the person at the terminal."""


class BakeError(Exception):
    """The model cannot be baked as asked. The message says what is wrong and what to do; exit status 2."""
