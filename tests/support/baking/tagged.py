"""`python -m tests.support.baking.tagged CONFIG TAGS RUNS`: bake pretrained tags that open_clip lacks.

CONFIG is an architecture's JSON file; TAGS maps each tag to its entry in open_clip's table; RUNS is a list of
command lines, each for model_cache.bake. Prints a JSON list of [status, output, errors].
"""

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from model_cache import bake
from model_cache.baking.torch_setup import import_open_clip


def main(config: str, tags: str, runs: str) -> None:
    open_clip = import_open_clip()
    from open_clip.pretrained import _PRETRAINED, _pcfg

    open_clip.add_model_config(config)
    _PRETRAINED[Path(config).stem] = {tag: _pcfg(**fields) for tag, fields in json.loads(tags).items()}
    outcomes = []
    for run in json.loads(runs):
        with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
            status = bake.main(run)
        outcomes.append([status, out.getvalue(), err.getvalue()])
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main(*sys.argv[1:])
