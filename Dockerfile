# One image for every process: `docker run docworker worker`, `… dispatcher`, `… beat`, `… migrate`; `… api` and `… console`
# with EXTRAS=api,console.

FROM python:3.11-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/docworker
WORKDIR /src
# The dependencies in a layer of their own: it changes less often than the code.
COPY pyproject.toml constraints.txt ./
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
        > requirements.txt \
    && /opt/docworker/bin/pip install --constraint constraints.txt --requirement requirements.txt
COPY README.md LICENSE ./
COPY docworker docworker
COPY db db
COPY jobs jobs
COPY migrations migrations
COPY worker worker
# `--build-arg EXTRAS=s3` for a store in an object store; what an extra adds is not in constraints.txt.
ARG EXTRAS=
RUN /opt/docworker/bin/pip install --constraint constraints.txt ".${EXTRAS:+[$EXTRAS]}"

FROM python:3.11-slim
# The image has Python's library without what is compiled of it, and nobody may write that here: each start would compile
# it anew, half a second of a core, those of health checks among them.
RUN python -m compileall -q -x site-packages "$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"
# `--build-arg PACKAGES="tesseract-ocr tesseract-ocr-deu"`, and EXTRAS=ocr, for the text of scans.
ARG PACKAGES=
RUN [ -z "$PACKAGES" ] || { apt-get update && apt-get install --yes --no-install-recommends $PACKAGES \
        && rm -rf /var/lib/apt/lists/*; }
RUN groupadd --system --gid 10001 docworker \
    && useradd --system --uid 10001 --gid docworker --home-dir /var/lib/docworker --shell /usr/sbin/nologin docworker \
    && install --directory --owner docworker --group docworker \
        /var/lib/docworker /var/lib/docworker/store /run/docworker
COPY --from=build /opt/docworker /opt/docworker
ENV PATH=/opt/docworker/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    DOCWORKER_STORE=/var/lib/docworker/store \
    DOCWORKER_STATE_DIRECTORY=/run/docworker \
    DOCWORKER_METRICS_HOST=0.0.0.0 \
    DOCWORKER_LOG_FORMAT=json
WORKDIR /var/lib/docworker
# A number, so that an orchestrator can see that it is not root.
USER 10001:10001
EXPOSE 8080 8090 9808 9809 9810 9811 9812
# For the worker; another process names itself: `docworker health dispatcher`.
HEALTHCHECK --interval=30s --timeout=20s --start-period=60s CMD ["docworker", "health", "worker"]
ENTRYPOINT ["docworker"]
CMD ["worker"]
