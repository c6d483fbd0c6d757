#!/usr/bin/env bash
# From this checkout to Cloud Run functions: see --help. The work is done by the Python package deploy/.
set -euo pipefail
python=${PYTHON:-python3}
caller=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")"
if ! "$python" -S -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  echo "deploy.sh: Python 3.11 or newer is needed; name one with PYTHON=python3.11." >&2
  exit 1
fi
# Only the standard library is needed (-S), and a dry run writes no files (-B).
exec "$python" -S -B -m deploy "$caller" "$@"
