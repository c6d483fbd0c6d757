"""Deploys the functions of this checkout to Cloud Run. `deploy.sh` is its command; standard library only."""
