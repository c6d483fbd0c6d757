"""Command, and Cloud Run job: looks for near-duplicates among the photos of an index.

python -m functions.duplicates [--threshold T] [--dry-run]
"""

import os
import sys

from clip_embeddings.cpus import usable_cpus

# This job does multiply matrices with NumPy, which reads the variable when it is imported.
os.environ["OPENBLAS_NUM_THREADS"] = str(usable_cpus())

from clip_embeddings.duplicates.command import main

if __name__ == "__main__":
    sys.exit(main())
