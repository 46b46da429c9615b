# One image for every Airflow component and for the command line: docker-compose.yaml and docs/kubernetes.md say which
# command each container runs. There is no HEALTHCHECK here, because what is healthy depends on that command: the
# compose file asks `python -m spendgate.health COMPONENT`, Helm's chart has probes of its own.

FROM python:3.11.14-slim-bookworm AS packages
COPY requirements.txt /
# Wheels only, each with the hash that was locked: nothing is compiled, and nothing runs at installation.
RUN python -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps --only-binary :all: \
        --require-hashes -r /requirements.txt \
    && /opt/venv/bin/pip uninstall --yes pip setuptools

FROM python:3.11.14-slim-bookworm
# The libraries that SQL Server's driver is linked to (include/spendgate/warehouse/failures.py).
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates libgssapi-krb5-2 libkrb5-3 libltdl7 \
    && rm -rf /var/lib/apt/lists/* \
    # The user and group that Helm's chart runs Airflow as; directories that become volumes are theirs from the start.
    && useradd --uid 50000 --gid 0 --no-create-home --home-dir /opt/airflow spendgate \
    && install -d -o 50000 -g 0 -m 0775 /opt/airflow /opt/airflow/logs \
    # The chart's probes call the official image's entry point.
    && printf '#!/bin/sh\nexec "$@"\n' >/entrypoint && chmod 0755 /entrypoint
COPY --from=packages /opt/venv /opt/venv
COPY . /opt/spendgate
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/spendgate/include \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    SPENDGATE_HOME=/opt/airflow/spendgate \
    AIRFLOW_HOME=/opt/airflow \
    AIRFLOW__CORE__DAGS_FOLDER=/opt/spendgate/dags \
    AIRFLOW__CORE__PLUGINS_FOLDER=/opt/spendgate/plugins \
    AIRFLOW__CORE__LOAD_EXAMPLES=False
USER 50000:0
WORKDIR /opt/airflow
CMD ["airflow", "version"]
