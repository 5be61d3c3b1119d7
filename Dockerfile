# One image for serving and training: every sub-command of `python -m app` is a sub-command of the image.
#
#   docker build -t samesku .                          for CPUs
#   docker build -t samesku:gpu --build-arg EXTRA=gpu .
#   docker build -t samesku --build-arg EXTRA=cpu,otel .               with traces, see docs/operations.md#traces
#   docker run -v samesku-data:/data samesku keys create --role admin    the first API key, shown once
#   docker run -p 8000:8000 -v samesku-data:/data samesku            serves; without any key it hears nobody outside the container,
#                                                                    unless SAMESKU_ALLOW_ANONYMOUS=true opens it to everybody
#   docker run samesku bundle inspect model_store/default            any other command
#
# TORCH_INDEX: address of an index with CPU-only builds of torch and torchvision, for an image that is 5 GB smaller.
ARG PYTHON_VERSION=3.11
FROM python:${PYTHON_VERSION}-slim

ARG EXTRA=cpu
ARG TORCH_INDEX=""
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1

# lightgbm's wheel links to the system's OpenMP, which slim images lack
RUN apt-get update && apt-get install --yes --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home --uid 10001 samesku && install -d -o samesku -g samesku /data

WORKDIR /samesku

# packages change rarely, code often: this layer depends on these files alone
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY deploy/install.sh deploy/
COPY app/__init__.py app/
RUN TORCH_INDEX="$TORCH_INDEX" deploy/install.sh /opt/venv "$EXTRA"

# weights change more rarely than code, and are larger
COPY model_store model_store
COPY app app

# towers are converted for OpenVINO once, here, and not at the first start
RUN case "$EXTRA" in *cpu*) /opt/venv/bin/python -m app bundle verify model_store/default ;; esac

# what is in this image: docker run --rm --entrypoint cat samesku sbom.cdx.json
COPY deploy/sbom.sh deploy/sbom_weights.py deploy/
RUN deploy/sbom.sh /opt/venv model_store/default /samesku/sbom.cdx.json

ENV PATH=/opt/venv/bin:$PATH \
    SAMESKU_BUNDLE=/samesku/model_store/default \
    SAMESKU_DATA_DIR=/data \
    SAMESKU_HOST=0.0.0.0 \
    SAMESKU_PORT=8000

USER samesku
VOLUME ["/samesku/model_store", "/data"]
EXPOSE 8000
STOPSIGNAL SIGTERM

HEALTHCHECK --interval=15s --timeout=12s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f\"http://127.0.0.1:{os.environ['SAMESKU_PORT']}/readyz\", timeout=11)"]

ENTRYPOINT ["python", "-m", "app"]
CMD ["serve"]
