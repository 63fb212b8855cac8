# The service in a container: `docker build -t regimegate .`, or with Prometheus and Grafana: `grafana/up`.
#
# It listens on all of the container's addresses, and so it refuses to start without keys: give it a keys file
# (`REGIME_KEYS`). The store is in the volume /var/lib/regimegate; nothing else has to be kept.

FROM python:3.11-slim-bookworm AS build
WORKDIR /src
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
COPY requirements.lock ./
RUN python -m venv /opt/regimegate \
    && /opt/regimegate/bin/pip install --no-compile --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY regime regime
COPY service service
COPY models models
RUN /opt/regimegate/bin/pip install --no-index --no-deps --no-build-isolation . \
    && python -m compileall -q /opt/regimegate/lib

FROM python:3.11-slim-bookworm
# What numba compiles, and uploads on their way, need a folder that can be written.
RUN useradd --system --uid 10001 --user-group --no-create-home --home-dir /var/lib/regimegate regimegate \
    && install -d -o regimegate -g regimegate /var/lib/regimegate /var/cache/regimegate /var/cache/regimegate/tmp
COPY --from=build /opt/regimegate /opt/regimegate
ENV PATH=/opt/regimegate/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    OMP_NUM_THREADS=1 \
    OPENBLAS_NUM_THREADS=1 \
    NUMBA_CACHE_DIR=/var/cache/regimegate \
    TMPDIR=/var/cache/regimegate/tmp \
    REGIME_STORE=/var/lib/regimegate/regimegate.db
USER 10001:10001
RUN ["python", "-m", "regime_service.warm"]
WORKDIR /var/lib/regimegate
VOLUME ["/var/lib/regimegate"]
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=4 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/healthz', timeout=3)"]
CMD ["regime", "serve", "--host", "0.0.0.0"]
