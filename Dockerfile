# One image for all of compose.yaml, and for the job templates in deploy/. They replace CMD by their
# own command, and an ENTRYPOINT would be in the way.
FROM python:3.13-slim AS build

WORKDIR /src
RUN python -m venv /opt/stocktrace
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY stocktrace stocktrace
COPY flows flows
RUN /opt/stocktrace/bin/pip install --no-cache-dir --disable-pip-version-check -c constraints.txt .

FROM python:3.13-slim

# A number, so that Kubernetes can see that it is not root (runAsNonRoot). An empty volume that is
# mounted on a folder takes the folder's owner.
RUN useradd --system --uid 10001 --user-group --home-dir /srv/stocktrace --no-create-home stocktrace \
    && mkdir -p /srv/stocktrace/data /srv/stocktrace/.prefect \
    && chown -R stocktrace:stocktrace /srv/stocktrace
COPY --from=build /opt/stocktrace /opt/stocktrace

# Log lines appear when they are written. The folder is that of deploy/ and of prefect.yaml.
ENV PATH=/opt/stocktrace/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    STOCKTRACE_HOME=/srv/stocktrace
USER 10001:10001
WORKDIR /srv/stocktrace
CMD ["stocktrace", "--help"]
