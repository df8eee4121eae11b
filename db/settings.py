"""`Settings`: every setting of docworker, typed and validated in one place.

Read from the environment with the prefix `DOCWORKER_`; nothing else in the project reads the environment.
Durations are in seconds, but for names that end in `_days`; sizes are in bytes.
"""

import json
import shlex
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from psycopg.conninfo import make_conninfo
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    DirectoryPath,
    Field,
    FilePath,
    IPvAnyNetwork,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from docworker.db.addresses import BrokerUrl, PostgresUrl, PostgresUrls, scheme_of, split_on_spaces, with_login_of
from docworker.db.errors import ConfigurationError


def _key_prefix(value: str) -> str:
    # The client cuts it off by its length in characters from keys that are bytes, and subscribes to it as a pattern.
    if not (value.isascii() and all(one.isprintable() for one in value)) or set(value) & set("*?[]\\"):
        raise ValueError("use printable ASCII characters other than * ? [ ] and the backslash, such as 'docworker:'")
    return value


def _queue_name(value: str) -> str:
    if not value.isprintable():  # the client's own separator is made of control characters
        raise ValueError("use printable characters, such as 'docworker'")
    return value


def _command(value: str) -> str:
    try:
        words = shlex.split(value)
    except ValueError as error:
        raise ValueError(f"not a command: {error}") from error
    if not words:
        raise ValueError("not a command: give a program and its arguments")
    return value


def _time_zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ValueError, OSError, KeyError) as error:
        raise ValueError("no such time zone: give a name such as Europe/Berlin, or UTC") from error
    return value


def _parsed_json(value: Any) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from error


Networks = Annotated[tuple[IPvAnyNetwork, ...], BeforeValidator(split_on_spaces)]
Seconds = Annotated[float, Field(gt=0)]
Days = Annotated[float, Field(gt=0)]
Bytes = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]

PREFIX = "DOCWORKER_"
MIB = 1024 * 1024
HOME = "home"
"""The cluster that every installation has."""


class Addresses(BaseModel):
    """Where the servers of one cluster are, as each of our roles."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    master_url: PostgresUrl | None
    """None at home alone, for who needs no more than the dispatcher's or the owner's address."""
    replica_urls: PostgresUrls = ()
    dispatcher_url: PostgresUrl | None = None
    listen_url: PostgresUrl | None = None
    owner_url: PostgresUrl | None = None

    @property
    def dispatcher_replica_urls(self) -> tuple[str, ...]:
        """The replicas, as the dispatcher role: who logs in is that of `dispatcher_url`. None where that is not set."""
        if self.dispatcher_url is None:
            return ()
        return tuple(with_login_of(url, self.dispatcher_url) for url in self.replica_urls)

    def _in_database(self, name: str) -> "Addresses":
        def there(url: str | None) -> str | None:
            return None if url is None else make_conninfo(url, dbname=name)

        replicas = tuple(make_conninfo(url, dbname=name) for url in self.replica_urls)
        others = {one: there(getattr(self, one)) for one in type(self).model_fields if one != "replica_urls"}
        return self.model_copy(update={**others, "replica_urls": replicas})


ClusterName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]


class Settings(BaseSettings):
    """All settings, with the defaults that suit one worker of a few processes.

    Raises pydantic's ValidationError; use :func:`settings`, which turns it into a ConfigurationError that names the
    environment variable and the value.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", hide_input_in_errors=True)

    # Servers
    master_url: PostgresUrl | None = None
    """Master, as the worker role. Name every server that may become it, with target_session_attrs=read-write: all are
    asked, and the one that takes writes on the highest timeline is taken."""
    replica_urls: Annotated[PostgresUrls, NoDecode] = ()
    """Replicas, as the worker role, separated by spaces. As the dispatcher role they are read at the same addresses,
    with the login of dispatcher_url."""
    dispatcher_url: PostgresUrl | None = None
    """Master, as the dispatcher role, which sees the jobs of all organizations and no documents."""
    listen_url: PostgresUrl | None = None
    """The dispatcher's address without a pooler between, for LISTEN; needed only where dispatcher_url has one."""
    owner_url: PostgresUrl | None = None
    """Master, as the owner role, for `docworker migrate`, and to make, move and drop organizations."""
    password_directory: DirectoryPath | None = None
    """Where the passwords of PostgreSQL's roles are, each in a file that is named after its role; read for each new
    connection of an address that names no password."""
    password_command: Annotated[str, AfterValidator(_command)] | None = None
    """Instead of that directory: what prints the password; {user}, {host} and {port} in it are replaced. It may take as
    long as `connect_timeout`."""
    clusters: Annotated[dict[ClusterName, Addresses], NoDecode, BeforeValidator(_parsed_json)] = {}
    """Clusters besides the one of the addresses above, which is called home: a JSON object of objects with
    `master_url` and, where there are any, `replica_urls`, `dispatcher_url`, `listen_url` and `owner_url`."""
    broker_url: BrokerUrl = "redis://localhost:6379/0"
    """Several Sentinels, or nodes of RabbitMQ, are separated by semicolons; the password is the servers' that Sentinels
    watch. Encrypted with rediss://, sentinels:// and amqps://."""
    broker_password_file: FilePath | None = None
    """Where the broker's password is, for an address that names none; read for each new connection."""
    broker_password_command: Annotated[str, AfterValidator(_command)] | None = None
    """Instead of that file: what prints it; {user} in it is replaced. It may take as long as `connect_timeout`."""
    broker_sentinel_master: Annotated[str, Field(min_length=1)] | None = None
    """The name under which the Sentinels of a sentinel:// or sentinels:// address watch the broker."""
    broker_sentinel_user: Annotated[str, Field(min_length=1)] | None = None
    """As whom the Sentinels themselves are asked, where that is not their default user."""
    broker_sentinel_password_file: FilePath | None = None
    """Where the Sentinels' own password is, if they ask for one; read for each new connection."""
    broker_queue_type: Literal["quorum", "classic"] = "quorum"
    """Of RabbitMQ: a quorum queue is kept by several of its nodes, and outlives the loss of one."""
    broker_ca_file: FilePath | None = None
    """Who may sign the certificate of an encrypted broker; those that the system trusts unless it is set."""
    broker_certificate_file: FilePath | None = None
    """What such a broker is shown if it asks for a certificate, with its key."""
    broker_key_prefix: Annotated[str, AfterValidator(_key_prefix)] = "docworker:"
    """Before every key at a Redis or Valkey, so that several installations may share one."""
    queue: Annotated[str, Field(min_length=1), AfterValidator(_queue_name)] = "docworker"
    """The queue at the broker; the same for workers and dispatchers."""
    result_backend_url: str | None = None
    """Where Celery keeps results, if somebody asks for them; no job needs any."""
    store: str = "var/store"
    """Where source bytes are kept, the same for all who import and who work: an absolute path, or an fsspec address
    such as s3://bucket/prefix. Unless it is set, each process has one of its own below where it was started."""

    # Places
    catalog_ttl: Annotated[float, Field(gt=0, le=10)] = 1
    """How long a process believes what the catalog says of an organization before it asks whether that has changed. A
    move waits for as long before its last step, so every process gets the same."""
    databases_open: Count = 8
    """Databases of single organizations to which one process keeps connections, on each cluster; the one that was not
    used for longest makes room for the next."""
    database_poll: Seconds = 30
    """How often the dispatcher looks for jobs in a database of a single organization for which nothing rings."""

    # Connections
    pool_size: Count = 2
    """Connections that a process keeps to each server, …"""
    max_overflow: Annotated[int, Field(ge=0)] = 2
    """… and so many more while they are in use."""
    pool_timeout: Seconds = 10
    """How long is waited for one that is free."""
    pool_recycle: Seconds = 1800
    """A connection that is older is replaced at its next use."""
    connect_timeout: Annotated[int, Field(ge=2)] = 5
    """For each host of an address."""
    answer_timeout: Seconds = 4
    """After so long without an answer a server is asked, over a new connection, whether it answers at all; one that
    does not within this once more is given up, and what waited for it is redone later."""
    prepared_statements: bool = True
    """Turn off behind PgBouncer in transaction mode."""
    statement_timeout: Seconds = 60
    """The server's limit; ours is 5 seconds longer, for one that answers others and never this."""
    lock_timeout: Seconds = 10
    """The server's limit for each wait for a lock."""
    idle_in_transaction_timeout: Seconds = 60
    """The server's limit for a transaction in which nobody says anything."""
    report_timeout: Seconds = 60
    """The server's limit for each statement of a report."""
    long_session: Seconds = 30
    """A session open for longer is logged with the place it was opened at."""
    repeated_statements: Annotated[int, Field(ge=0)] = 0
    """A session that sends the same statement more often is logged with the place, once a statement; 0: none is."""

    # Reports
    report_keep_from: Count = 100_000
    """Of organizations with at least so many documents, the dear reports are computed each night and kept."""
    report_time_zone: Annotated[str, AfterValidator(_time_zone)] = "UTC"
    """Whose days reports count, unless they are asked for others."""

    # Replicas
    replica_max_lag: Seconds = 10
    """A reader without a position uses no replica that is further behind."""
    replica_wait: Annotated[float, Field(ge=0)] = 0.5
    """How long a reader with a position waits for a replica to get there before it reads from the master."""
    replica_sample_interval: Seconds = 1
    """How often a process asks each replica how far it is."""

    # Worker
    worker_pool: Literal["prefork", "threads", "solo"] = "prefork"
    """What runs the jobs of a worker: processes, threads, or the worker itself, one job after the other."""
    worker_processes: Count = 2
    """How many messages a worker runs at once."""
    max_tasks_per_child: Annotated[int, Field(ge=0)] = 0
    """Messages after which a process of a worker is replaced; 0: never."""
    shutdown_timeout: Seconds = 20
    """How long SIGTERM waits for running jobs before it gives them back."""
    visibility_timeout: Seconds = 3600
    """After so long a broker gives a message that was not acknowledged to another worker."""
    metrics_host: str = "127.0.0.1"
    """Where the ports for metrics listen; 0.0.0.0 is everywhere."""
    worker_metrics_port: Annotated[int, Field(ge=0, le=65535)] = 9808
    """Of a worker: /metrics, /healthz and /readyz; 0 is any free port, which is logged."""
    dispatcher_metrics_port: Annotated[int, Field(ge=0, le=65535)] = 9809
    """The same of a dispatcher."""
    beat_metrics_port: Annotated[int, Field(ge=0, le=65535)] = 9810
    """The same of a beat."""
    metrics_organizations: Annotated[int, Field(ge=0, le=1000)] = 0
    """Of so many organizations, those that wait longest, metrics tell how long; none unless it is set."""
    watchdog_timeout: Seconds = 60
    """A worker with idle processes and waiting messages that takes none for this long ends itself."""
    state_directory: Path = Path("var")
    """Where metrics files and beat's state are kept."""
    log_format: Literal["console", "json"] = "console"
    """Lines for people, or JSON for machines."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least that is logged."""

    # Ledger
    lease: Seconds = 10
    """How long a running attempt owns its job without a sign of life; renewed three times as often."""
    redispatch_after: Seconds = 10
    """A dispatched job that nobody has claimed is dispatched again after this, then after twice this, …"""
    dispatch_interval: Annotated[float, Field(gt=0, le=1)] = 0.5
    """The longest pause of a dispatcher for which nothing rings; it looks sooner where it has just found work. At most
    a second, because whoever stands by must notice soon that nobody plans."""
    dispatch_window: Count = 4
    """Messages that may wait at the broker, besides those that run."""
    batch_size: Annotated[int, Field(ge=1, le=10_000)] = 200
    """Largest number of jobs in one message, for kinds that take batches."""
    message_size: Annotated[int, Field(ge=1, le=1000)] = 50
    """Largest number of jobs in one message, for the other kinds: they run one by one, and a message holds fewer where
    they take long."""
    max_running_per_organization: Annotated[int, Field(ge=1)] | None = None
    """Jobs of one organization that run at a time; as many as there are slots unless it is set."""
    backoff_base: Seconds = 2
    """The first pause before a job is tried again; each further one is about twice as long, …"""
    backoff_max: Seconds = 600
    """… up to this."""
    max_faults: Count = 20
    """Conflicts, lost connections and the like that a job survives before it fails; they use up no attempts."""
    max_given_back: Annotated[int, Field(ge=1, le=10_000)] = 100
    """How often in a row a job is given back undone, at stops or behind slower jobs, before that uses up an attempt."""
    succeeded_retention_days: Days = 7
    """After so long jobs that succeeded are removed from the ledger."""
    failed_retention_days: Days = 90
    """The same of those that failed or were cancelled."""

    # Work in the background: backfills, purges, reprocessing
    governor_step: Seconds = 0.5
    """How long a step is to take: others wait so long for the rows it has locked."""
    governor_max_lag: Seconds = 5
    """No step begins while a replica is further behind. Half of replica_max_lag, so that no reader goes to the master
    on its account."""
    governor_wal_rate: Bytes = 32 * MIB
    """Bytes of log a second, of everybody on the master: more is waited for until it is less on the average. A
    replica replays what a single process can."""
    governor_pool_wait: Seconds = 0.5
    """No step begins while a connection to the master, and its first answer, take longer: jobs wait for them too."""
    governor_vacuum_wait: Annotated[float, Field(ge=0)] = 60
    """For so long a VACUUM at work on the same table is let run alone; one that an old snapshot holds up never ends."""

    reprocess_failures: Annotated[int, Field(ge=0)] = 20
    """Documents of an organization that the new processors may fail on before reprocessing stops there."""

    # Webhooks
    webhook_allow_http: bool = False
    """Whether webhooks may go to http:// addresses as well: what is sent can be read and changed on its way."""
    webhook_allowed_networks: Annotated[Networks, NoDecode] = ()
    """Networks to which webhooks may go although they are not public, such as 10.1.0.0/16, separated by spaces."""
    webhook_ca_file: FilePath | None = None
    """Who may sign the certificates of those who get webhooks, besides those that the system trusts."""
    webhook_timeout: Annotated[float, Field(gt=0, le=100)] = 15
    """How long a delivery may take, from the look-up of the host to the answer."""
    webhook_pause_failures: Count = 10
    """An endpoint is paused when so many deliveries in a row have failed, …"""
    webhook_pause_after: Annotated[float, Field(ge=0)] = 86_400
    """… the first of them at least so long ago."""

    # HTTP API
    api_host: str = "127.0.0.1"
    """Where the HTTP API listens."""
    api_port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """Its port; 0 is any free one, which is logged."""
    api_metrics_port: Annotated[int, Field(ge=0, le=65535)] = 9811
    """The port of its /metrics, /healthz and /readyz."""
    api_rate: Annotated[float, Field(gt=0)] = 50
    """Requests a second that one process takes of one token; twice as many at once."""
    api_kinds: Annotated[tuple[str, ...], NoDecode, BeforeValidator(split_on_spaces)] = ()
    """Kinds of jobs that callers may enqueue, separated by spaces."""
    api_secret: Annotated[SecretStr, Field(min_length=16)] | None = None
    """Signs how far a caller's writes were, for several processes alike; each makes its own unless it is set."""

    # Console
    console_host: str = "127.0.0.1"
    """Where the console listens."""
    console_port: Annotated[int, Field(ge=0, le=65535)] = 8090
    """Its port; 0 is any free one, which is logged."""
    console_metrics_port: Annotated[int, Field(ge=0, le=65535)] = 9812
    """The port of its /metrics, /healthz and /readyz."""
    console_viewer_token: Annotated[SecretStr, Field(min_length=16)] | None = None
    """With what one logs in to look; of at least 16 characters."""
    console_viewer_token_file: Path | None = None
    """The file that has it, and may change."""
    console_operator_token: Annotated[SecretStr, Field(min_length=16)] | None = None
    """With what one logs in to act as well."""
    console_operator_token_file: Path | None = None
    """The file that has it, and may change."""
    console_session_hours: Annotated[float, Field(gt=0, le=720)] = 12
    """For so long one is logged in."""
    console_origin: str | None = None
    """The address at which people see the console behind a proxy, such as https://jobs.example.com."""
    console_root_path: str = ""
    """The path below which a proxy has the console, such as /jobs."""

    # Documents
    max_source_bytes: Bytes = 64 * MIB
    """A larger file is not taken."""
    extract_memory_bytes: Bytes = 1024 * MIB
    """What a parser may take of memory, …"""
    extract_cpu_seconds: Seconds = 30
    """… of processor time for a document, …"""
    extract_wall_seconds: Seconds = 60
    """… of time by the clock, …"""
    extract_output_bytes: Bytes = 16 * MIB
    """… and how much text it may give."""
    extract_documents_per_child: Count = 200
    """After so many documents a parser's process is replaced."""
    attachments_most: Annotated[int, Field(ge=0, le=1000)] = 100
    """Of a mail become documents of their own."""
    attachments_bytes: Bytes = 64 * MIB
    """Of those of a mail together."""
    ocr_languages: str = "eng"
    """By Tesseract's names, such as `eng+deu`; each has to be installed."""
    ocr_most_pages: Count = 50
    """Of a document; the others are left out."""
    ocr_page_seconds: Seconds = 60
    """How long recognizing a page may take."""
    ocr_memory_bytes: Bytes = 1024 * MIB
    """What it may take of memory."""
    sandbox: Literal["required", "best"] = "best"
    """Whether processes refuse to parse where the kernel cannot keep parsers from files and the network."""
    deleted_retention_days: Annotated[float, Field(ge=0)] = 30
    """So long after its deletion a document is purged with its versions and its bytes."""
    audit_retention_days: Annotated[float, Field(ge=30)] | None = None
    """Prune entries of audit logs that are older; off unless set."""
    keep_versions: Annotated[int, Field(ge=1)] | None = None
    """Prune older versions but these many newest ones; off unless set."""
    keep_versions_days: Annotated[float, Field(ge=0)] = 30
    """Versions younger than this are never pruned."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.shutdown_timeout >= self.visibility_timeout:
            raise ValueError(
                f"DOCWORKER_VISIBILITY_TIMEOUT ({self.visibility_timeout:g} s) must be longer than "
                f"DOCWORKER_SHUTDOWN_TIMEOUT ({self.shutdown_timeout:g} s)"
            )
        self._check_broker()
        if self.password_directory is not None and self.password_command is not None:
            raise ValueError(
                "DOCWORKER_PASSWORD_DIRECTORY and DOCWORKER_PASSWORD_COMMAND are both set: a password is in one place"
            )
        if HOME in self.clusters:
            raise ValueError(
                f"DOCWORKER_CLUSTERS names {HOME!r}, which is the cluster of DOCWORKER_MASTER_URL: take another name"
            )
        if self.backoff_base > self.backoff_max:
            raise ValueError(
                f"DOCWORKER_BACKOFF_BASE ({self.backoff_base:g} s) is above "
                f"DOCWORKER_BACKOFF_MAX ({self.backoff_max:g} s)"
            )
        return self

    def _check_broker(self) -> None:
        scheme = scheme_of(self.broker_url)
        if scheme in {"sentinel", "sentinels"} and self.broker_sentinel_master is None:
            raise ValueError(
                "DOCWORKER_BROKER_SENTINEL_MASTER is not set: a sentinel:// address needs the name under which the "
                "Sentinels watch the broker, such as 'mymaster'"
            )
        for name in () if scheme in {"rediss", "sentinels", "amqps"} else ("broker_ca_file", "broker_certificate_file"):
            if getattr(self, name) is not None:
                raise ValueError(
                    f"DOCWORKER_{name.upper()} is set, but DOCWORKER_BROKER_URL is no rediss://, sentinels:// or "
                    "amqps:// address: nothing would be encrypted or checked"
                )
        given = [one for one in ("broker_password_file", "broker_password_command") if getattr(self, one) is not None]
        if any(urlsplit(one).password for one in self.broker_url.split(";")):
            given.append("broker_url")
        if len(given) > 1:
            names = " and ".join(f"DOCWORKER_{name.upper()}" for name in given)
            raise ValueError(f"{names} each give the broker's password: it is in one place")

    @property
    def cluster_names(self) -> tuple[str, ...]:
        return (HOME, *self.clusters)

    def addresses(self, cluster: str = HOME, database: str | None = None) -> Addresses:
        """Of a cluster's own database, or of another one on its servers; raises ConfigurationError for a name of a
        cluster that no setting knows."""
        if database is not None:
            return self.addresses(cluster)._in_database(database)
        if cluster == HOME:
            return Addresses.model_construct(**{name: getattr(self, name) for name in Addresses.model_fields})
        try:
            return self.clusters[cluster]
        except KeyError:
            raise ConfigurationError(
                f"no cluster is called {cluster!r}; known: {', '.join(self.cluster_names)}: "
                "name it in DOCWORKER_CLUSTERS"
            ) from None

    def master_database_url(self, cluster: str = HOME, database: str | None = None) -> str:
        """The worker's address of a cluster's master; raises ConfigurationError when it is not set."""
        return self._demanded("master", "worker", cluster, database)

    def dispatcher_database_url(self, cluster: str = HOME) -> str:
        """The dispatcher's address; raises ConfigurationError when it is not set."""
        return self._demanded("dispatcher", "dispatcher", cluster)

    def owner_database_url(self, cluster: str = HOME, database: str | None = None) -> str:
        """The owner's address; raises ConfigurationError when it is not set."""
        return self._demanded("owner", "owner", cluster, database)

    def _demanded(self, name: str, role: str, cluster: str, database: str | None = None) -> str:
        url: str | None = getattr(self.addresses(cluster, database), f"{name}_url")
        if url is None:
            setting = f"DOCWORKER_{name.upper()}_URL"
            if cluster != HOME:
                setting = f"{name}_url of {cluster} in DOCWORKER_CLUSTERS"
            raise ConfigurationError(
                f"{setting} is not set: give the master's address as the role docworker_{role}, or run this in the "
                "directory of `docworker up`"
            )
        return url


@cache
def settings() -> Settings:
    """The settings of this process; raises ConfigurationError naming the variable, the value and the remedy."""
    try:
        return Settings()
    except ValidationError as error:
        raise ConfigurationError(_explain(error)) from error


def _explain(error: ValidationError) -> str:
    lines = []
    for item in error.errors():
        place = [str(part) for part in item["loc"]]
        message = item["msg"].removeprefix("Value error, ")
        if not place:
            lines.append(message)
            continue
        name = ": ".join([f"DOCWORKER_{place[0].upper()}", *place[1:]])
        is_secret = place[0] == "clusters" or place[0].endswith(("_url", "_urls", "_command", "_secret", "_token"))
        lines.append(f"{name}: {message}" + ("" if is_secret else f" (given: {item['input']!r})"))
    return "settings: " + "; ".join(lines)
