"""Judge baked models on data of your own; no torch is needed.

python -m model_cache.evaluate clip-vit-base-patch32 mobileclip-s1 --pairs captions.csv
python -m model_cache.evaluate clip-vit-base-patch32 --classes photos
"""

from __future__ import annotations

import json
import sqlite3
import sys
from argparse import Namespace
from collections.abc import Sequence

from clip_embeddings.errors import ConfigError
from model_cache.evaluating import report
from model_cache.evaluating.arguments import parse_arguments
from model_cache.evaluating.dataset import read_classes, read_pairs
from model_cache.evaluating.embedders import open_baked, serving_settings
from model_cache.evaluating.errors import EvaluationError
from model_cache.evaluating.evaluation import evaluate
from model_cache.evaluating.html_page import write_page
from model_cache.evaluating.vector_cache import VectorCache


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0 evaluated, 2 not possible, 130 interrupted."""
    options = parse_arguments(argv)
    try:
        _run(options)
    except (EvaluationError, ConfigError) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        print(
            f"evaluate: Python cannot import {error.name}: `pip install -r model_cache/requirements.txt` "
            "installs what --reference needs.",
            file=sys.stderr,
        )
        return 2
    except sqlite3.Error as error:
        print(f"evaluate: the cache {options.cache} cannot be used ({error}).", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"evaluate: {error.filename or options.html}: {error.strerror}.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("evaluate: interrupted. Run it again to go on where it was.", file=sys.stderr)
        return 130
    return 0


def _run(options: Namespace) -> None:
    settings = serving_settings()
    pairs = read_pairs(options.pairs) if options.pairs else None
    labeled = read_classes(options.classes) if options.classes else None
    embedders = open_baked(options.models, settings)
    if options.reference:
        # Imported late: nothing else needs the packages of baking.
        from model_cache.evaluating.torch_reference import open_reference

        files = options.checkpoint, options.config
        embedders.insert(0, open_reference(options.reference, settings, *files))
    with VectorCache(options.cache) as cache:
        evaluation = evaluate(embedders, pairs, labeled, options.templates, settings, cache)
    if options.html:
        write_page(evaluation, settings, options.html)
    if options.json:
        print(json.dumps(report.as_json(evaluation), indent=1, ensure_ascii=False))
    else:
        print(report.table(evaluation))


if __name__ == "__main__":
    sys.exit(main())
