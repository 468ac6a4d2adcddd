# docs/install.md explains how to build, run and verify this image.
# For a reproducible build, pin the base image by its digest: --build-arg PYTHON_IMAGE=docker.io/library/python:3.12-slim@sha256:…
ARG PYTHON_IMAGE=docker.io/library/python:3.12-slim

FROM ${PYTHON_IMAGE} AS build
# Timestamp of all files built here, in Unix seconds: equal sources give equal files.
ARG SOURCE_DATE_EPOCH=1767225600
ENV SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH} \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_NO_COMPILE=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONHASHSEED=0
WORKDIR /build
COPY requirements.lock requirements-build.lock ./
RUN python -m venv --without-pip /opt/jobrun-exporter \
    && python -m venv /build/builder \
    && /build/builder/bin/pip install --require-hashes --only-binary :all: -r requirements-build.lock \
    && /build/builder/bin/pip --python /opt/jobrun-exporter/bin/python install \
       --require-hashes --only-binary :all: -r requirements.lock
COPY . .
# Compile bytecode here: the image's file system is read-only, and file times must not invalidate it.
RUN /build/builder/bin/pip wheel --no-deps --no-build-isolation --no-index --wheel-dir /build/dist . \
    && /build/builder/bin/pip --python /opt/jobrun-exporter/bin/python install --no-deps --no-index /build/dist/*.whl \
    && python -m compileall -q --invalidation-mode unchecked-hash /opt/jobrun-exporter/lib \
    && mkdir -p /state \
    && find /opt/jobrun-exporter /state -exec touch --no-dereference --date="@${SOURCE_DATE_EPOCH}" {} +

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="jobrun-exporter" \
      org.opencontainers.image.description="Prometheus exporter for job runs of hosted systems" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.2.0"
COPY --from=build /opt /opt
COPY --from=build --chown=65532:65532 /state /var/lib/jobrun-exporter
ENV PATH=/opt/jobrun-exporter/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 65532:65532
# The default state.path is relative to this directory.
WORKDIR /var/lib/jobrun-exporter
VOLUME /var/lib/jobrun-exporter
EXPOSE 9797
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 CMD ["python", "-m", "exporter.probe"]
ENTRYPOINT ["jobrun-exporter"]
CMD ["run", "--config.file=/etc/jobrun-exporter/config.yaml"]
