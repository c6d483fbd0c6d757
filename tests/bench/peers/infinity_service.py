"""infinity-emb's command line. The package has no `__main__`."""

from infinity_emb.cli import cli

cli()
