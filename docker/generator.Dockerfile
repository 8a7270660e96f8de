# The generator with the demo models; other models come on a volume.
# From the repository root: docker build -f docker/generator.Dockerfile -t REGISTRY/atelier/generator:0.2.0 .
# A release is built with --build-arg BASE=python:3.11-slim-bookworm@sha256:..., the digest that was tested.

ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS stubs
ARG PIP_INDEX_URL
WORKDIR /src
COPY constraints.txt ./
RUN pip install --no-cache-dir --constraint constraints.txt setuptools grpcio-tools
COPY protos protos/
RUN protos/generate.sh python3

FROM ${BASE} AS build
ARG PIP_INDEX_URL
WORKDIR /src
COPY constraints.txt ./
# torch has its own layer, which rarely changes: gigabytes, since PyPI's Linux wheels include CUDA. An index with
# CPU-only torch, given as PIP_INDEX_URL, makes a small image.
RUN python3 -m venv /opt/atelier \
    && /opt/atelier/bin/pip install --no-cache-dir --constraint constraints.txt \
    pip setuptools wheel torch torchvision
COPY --from=stubs /src/protos protos/
COPY services/runtime services/runtime/
COPY demo demo/
COPY services/generator services/generator/
RUN /opt/atelier/bin/pip install --no-cache-dir --no-build-isolation --constraint constraints.txt \
    ./protos ./services/runtime ./demo './services/generator[otel]'

FROM ${BASE} AS run
# The compiler that COMPILE needs, on a CPU as on a GPU: 260 MB.
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/atelier /opt/atelier
# The root file system is read-only in Kubernetes; libraries keep their caches in /tmp.
ENV HOME=/tmp \
    ATELIER_GENERATOR_HOST=0.0.0.0 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
EXPOSE 50051 9101
HEALTHCHECK --interval=15s --timeout=10s --start-period=1m --retries=4 \
    CMD ["/opt/atelier/bin/python", "-m", "atelier_runtime.probe", "generator"]
ENTRYPOINT ["/opt/atelier/bin/atelier-generator"]
CMD ["serve"]
