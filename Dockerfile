# The gateway in a container: docker build -t clip . && docker run -p 8080:8080 clip
# MODEL is "demo", a model baked into model_cache/, or one that is baked here, which takes torch and a network.
FROM python:3.13-slim AS build
ARG MODEL=ViT-B-32/laion400m_e32
# Of an index in PostgreSQL, whose packages are then installed: its URL without a password.
ARG INDEX=
# Where torch's CPU build is found; the default index has a build for GPUs, gigabytes larger.
ARG TORCH_INDEX=
WORKDIR /src
COPY . .
RUN stage() { ./deploy.sh --model="$MODEL" --build-dir=/out stage gateway; } \
    && stage 2>/dev/null || { \
      pip install --no-cache-dir ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -r model_cache/requirements.txt \
      && python -m model_cache.bake "$MODEL" \
      && stage; \
    }

FROM python:3.13-slim
WORKDIR /app
COPY --from=build /out/gateway/requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt
COPY --from=build /out/gateway .
# Compiled here: the process may not write, and would compile at every start.
RUN python -m compileall -q .
# Jobs, the index and temporary files: the one place that must be writable.
RUN mkdir /data && chown 65532:65532 /data
VOLUME /data
ENV JOBS_URL=file:///data/jobs INDEX_URL=sqlite:////data/index.sqlite TMPDIR=/data HOME=/data
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PORT=8080
USER 65532:65532
EXPOSE 8080
# Vertex AI names the port in a variable of its own.
CMD ["sh", "-c", "exec python -m functions_framework --target gateway --source main.py --port \"${AIP_HTTP_PORT:-$PORT}\""]
