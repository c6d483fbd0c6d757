"""`make bench`: start-up, latency, CPU and memory, compared with FastAPI + open_clip in one run."""
