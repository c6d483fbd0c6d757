"""Command, and Cloud Run job: embeds the photos that a bucket holds already.

python -m functions.backfill [--prefix P] [--dry-run]
"""

import sys

from clip_embeddings.photos.backfill import main

if __name__ == "__main__":
    sys.exit(main())
