# The gateway. No torch, no models.
# From the repository root: docker build -f docker/gateway.Dockerfile -t REGISTRY/atelier/gateway:0.2.0 .
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
RUN python3 -m venv /opt/atelier \
    && /opt/atelier/bin/pip install --no-cache-dir --constraint constraints.txt pip setuptools wheel
COPY --from=stubs /src/protos protos/
COPY services/runtime services/runtime/
COPY gateway gateway/
RUN /opt/atelier/bin/pip install --no-cache-dir --no-build-isolation --constraint constraints.txt \
    ./protos ./services/runtime './gateway[c2pa,otel]'

FROM ${BASE} AS run
RUN install -d -o 10001 -g 10001 -m 0750 /var/lib/atelier
COPY --from=build /opt/atelier /opt/atelier
# The root file system is read-only in Kubernetes; libraries keep their caches in /tmp. Jobs outlive the container on a
# volume that one gateway has; where there are several, these settings name a database and a bucket, or none.
ENV ATELIER_GATEWAY_HOST=0.0.0.0 \
    ATELIER_GATEWAY_JOBS_DATABASE=sqlite:////var/lib/atelier/jobs.db \
    ATELIER_GATEWAY_JOBS_FILES=file:/var/lib/atelier/jobs \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
VOLUME /var/lib/atelier
EXPOSE 7860 9100
HEALTHCHECK --interval=15s --timeout=10s --start-period=1m --retries=4 \
    CMD ["/opt/atelier/bin/python", "-m", "atelier_runtime.probe", "gateway"]
ENTRYPOINT ["/opt/atelier/bin/atelier-gateway"]
CMD ["serve"]
