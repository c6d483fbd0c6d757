"""`make bench`: start-up, latency, CPU and memory beside FastAPI + open_clip, all in one run."""
