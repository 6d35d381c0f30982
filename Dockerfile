# syntax=docker/dockerfile:1
# Airflow with Kundenkreis, from the same lock files as a checkout's .venv (docs/deployment.md).
# Another base, or this one by its digest: docker build --build-arg BASE_IMAGE=python:3.13...@sha256:...
ARG BASE_IMAGE=python:3.13.12-slim-bookworm

FROM ${BASE_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    UV_NO_CACHE=1 \
    VIRTUAL_ENV=/opt/kundenkreis/.venv
WORKDIR /opt/kundenkreis
COPY requirements.txt requirements-deployment.txt ./
RUN python -m venv .venv \
    && .venv/bin/pip install uv==0.13.9 \
    && .venv/bin/uv pip install --compile-bytecode -r requirements.txt -r requirements-deployment.txt
COPY pyproject.toml README.md ./
COPY plugins plugins
COPY sandbox sandbox
RUN .venv/bin/uv pip install --no-deps -e .

FROM ${BASE_IMAGE}
ARG USER_ID=50000
# Only what a task writes belongs to its user. A new volume takes its owner from these folders.
RUN useradd --uid "${USER_ID}" --gid 0 --no-create-home --home-dir /var/lib/kundenkreis kundenkreis \
    && install --directory --owner "${USER_ID}" --group 0 --mode 0770 \
    /opt/airflow /opt/airflow/logs /var/lib/kundenkreis /var/lib/kundenkreis/data_docs
WORKDIR /opt/kundenkreis
COPY --from=build /opt/kundenkreis /opt/kundenkreis
COPY config config
COPY dags dags
COPY dbt_project dbt_project
ENV AIRFLOW_HOME=/opt/airflow \
    AIRFLOW__CORE__DAGS_FOLDER=/opt/kundenkreis/dags \
    AIRFLOW__CORE__PLUGINS_FOLDER=/opt/kundenkreis/plugins \
    AIRFLOW__CORE__LOAD_EXAMPLES=False \
    AIRFLOW__USAGE_DATA_COLLECTION__ENABLED=False \
    DBT_SEND_ANONYMOUS_USAGE_STATS=false \
    GX_ANALYTICS_ENABLED=false \
    KUNDENKREIS_HOME=/var/lib/kundenkreis \
    PATH=/opt/kundenkreis/.venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    RUNTIME__DLTHUB_TELEMETRY=false
USER ${USER_ID}
CMD ["kundenkreis", "--help"]
