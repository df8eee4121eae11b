"""docker-compose.yml and the Dockerfile agree with the Procfile, the settings, and the files they name; the commands of
the pooler and the broker run."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import redis
import yaml
from honcho.environ import parse_procfile

from docworker.db.addresses import split_on_spaces
from docworker.db.settings import Settings
from docworker.worker.local.launching import launch, server_user
from docworker.worker.local.servers.programs import postgres_programs, valkey_programs
from docworker.worker.local.servers.server import HOST, free_port
from docworker.worker.local.stack import LocalStack
from tests.support.bouncer import PROGRAM, needs_pgbouncer
from tests.support.project import PACKAGED, PROJECT
from tests.support.stack import temporary_directory
from tests.support.waiting import eventually

COMPOSE = PROJECT / "docker-compose.yml"
FILE: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
OURS = {name: one for name, one in SERVICES.items() if one["image"] == "docworker"}
VARIABLE = re.compile(r"\$\{\w+:-([\w./-]+)\}")


def in_seconds(written: str) -> float:
    return float(written.removesuffix("s"))


def test_compose_runs_the_procfile_an_api_and_a_console_and_two_of_what_may_fail() -> None:
    procfile = parse_procfile((PROJECT / "Procfile").read_text()).processes
    expected = {
        {"release": "migrate"}.get(name, name): command.removeprefix("exec ") for name, command in procfile.items()
    } | {"api": "docworker api", "console": "docworker console"}
    assert {name: " ".join(["docworker", *one["command"]]) for name, one in OURS.items()} == expected
    assert {name: one.get("deploy", {}).get("replicas", 1) for name, one in OURS.items()} == {
        "worker": 2,
        "dispatcher": 2,
        "beat": 2,
        "migrate": 1,
        "api": 1,
        "console": 1,
    }


@pytest.mark.parametrize("name", ["docker-compose.yml", "Dockerfile"])
def test_every_setting_named_exists(name: str) -> None:
    text = (PROJECT / name).read_text()
    named = set(re.findall(r"\bDOCWORKER_([A-Z_]+)(?=[:=])", text))
    assert named
    assert {one.lower() for one in named} <= Settings.model_fields.keys()


def test_files_that_are_mounted_or_copied_exist() -> None:
    mounted = re.findall(r"- \./([\w./-]+):", COMPOSE.read_text())
    copied = [
        source
        for line in re.findall(r"^COPY (?!--from)(.+) \S+$", (PROJECT / "Dockerfile").read_text(), re.MULTILINE)
        for source in line.split()
    ]
    missing = [name for name in (*mounted, *copied) if not (PROJECT / name).exists()]
    assert mounted
    assert copied
    assert not missing
    admitted = {line.removeprefix("!") for line in (PROJECT / ".dockerignore").read_text().split() if line[0] == "!"}
    assert set(copied) == admitted
    assert set(PACKAGED) <= set(copied), "the image installs the package from what is copied"


@pytest.mark.parametrize("name", SERVICES)
def test_nobody_is_root_or_writes_to_its_image_and_each_says_whether_it_is_well(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    if name not in OURS:  # whose image has a user
        assert service["user"] not in {"root", "0"}
    health = service["healthcheck"]
    assert health["disable"] if name == "migrate" else health["test"]
    for port in service.get("ports", ()):
        assert port.startswith("127.0.0.1:")
    for volume in service.get("volumes", ()):
        source, _, options = volume.partition(":")
        assert options.endswith(":ro") if source.startswith(".") else source in FILE["volumes"]


def test_ours_have_time_to_stop_and_memory_where_they_write() -> None:
    [state] = re.findall(r"DOCWORKER_STATE_DIRECTORY=(\S+)", (PROJECT / "Dockerfile").read_text())
    [user] = re.findall(r"^USER (\d+):\d+$", (PROJECT / "Dockerfile").read_text(), re.MULTILINE)
    for service in OURS.values():
        assert in_seconds(service["stop_grace_period"]) >= Settings().shutdown_timeout + 5
        memory = dict(one.split(":") for one in service["tmpfs"])
        assert memory.keys() == {"/tmp", state}
        assert f"uid={user}" in memory[state]


def test_addresses_lead_to_services_and_these_are_waited_for() -> None:
    for name, service in SERVICES.items():
        needed = service.get("depends_on", {})
        assert needed.keys() <= SERVICES.keys()
        for other, condition in needed.items():
            healthy = SERVICES[other]["healthcheck"].get("test")
            assert condition["condition"] == ("service_healthy" if healthy else "service_completed_successfully")
        for setting, value in service["environment"].items() if name in OURS else ():
            if setting.endswith(("_URL", "_URLS")):
                assert hosts_of(value) <= SERVICES.keys(), setting


def hosts_of(addresses: str) -> set[str]:
    written = [VARIABLE.sub(r"\1", one) for one in split_on_spaces(addresses)]
    places = [urlsplit(one).netloc.rpartition("@")[2].split(",") for one in written]
    return {host.partition(":")[0] for place in places for host in place}


def test_each_of_ours_is_asked_as_itself_and_published_where_it_listens() -> None:
    exposed = re.findall(r"^EXPOSE (.+)$", (PROJECT / "Dockerfile").read_text(), re.MULTILINE)[0].split()
    listening = {name: str(getattr(Settings(), f"{name}_port")) for name in ("api", "console")}
    for name, service in OURS.items():
        if name != "migrate":
            assert service["healthcheck"]["test"] == ["CMD", "docworker", "health", name]
            assert str(getattr(Settings(), f"{name}_metrics_port")) in exposed
        port = listening.get(name)
        assert service.get("ports", []) == ([f"127.0.0.1:{port}:{port}"] if port else [])
        if port:
            assert port in exposed
            assert service["environment"][f"DOCWORKER_{name.upper()}_HOST"] == "0.0.0.0"
            assert name in service["build"]["args"]["EXTRAS"].split(",")


def test_the_console_has_its_token_by_a_secret_and_the_api_no_address_that_it_needs_not() -> None:
    console, api = SERVICES["console"], SERVICES["api"]
    [secret] = console["secrets"]
    assert FILE["secrets"].keys() == {secret}
    given = {name: value for name, value in console["environment"].items() if "TOKEN" in name}
    assert given == {"DOCWORKER_CONSOLE_OPERATOR_TOKEN_FILE": f"/run/secrets/{secret}"}
    ignored = (PROJECT / ".gitignore").read_text().split()
    assert VARIABLE.sub(r"\1", FILE["secrets"][secret]["file"]).removeprefix("./") in ignored
    assert console["profiles"], "without the file the others would not start"
    assert not [name for name in api["environment"] if "DISPATCHER" in name or "OWNER" in name or "BROKER" in name]


def test_prometheus_and_grafana_ask_services() -> None:
    scraped = yaml.safe_load((PROJECT / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"]
    asked = {name: one["port"] for job in scraped for one in job["dns_sd_configs"] for name in one["names"]}
    assert asked == {name: getattr(Settings(), f"{name}_metrics_port") for name in OURS.keys() - {"migrate"}}
    provisioning = PROJECT / "deploy/grafana/provisioning"
    [source] = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())["datasources"]
    address = urlsplit(source["url"])
    assert f":{address.port}" in SERVICES[str(address.hostname)]["ports"][0]
    [provider] = yaml.safe_load((provisioning / "dashboards/docworker.yml").read_text())["providers"]
    assert provider["options"]["path"].startswith("/deploy/")
    assert "./deploy/grafana:/deploy:ro" in SERVICES["grafana"]["volumes"]


@contextmanager
def running(command: list[str | Path], directory: Path, environment: Mapping[str, str]) -> Iterator[None]:
    user = server_user()
    user.own(directory)
    with (directory / "log").open("wb") as output:
        process = launch(command, user=user, environment=environment, directory=directory, output=output)
    try:
        yield
    finally:
        process.kill()
        process.wait()


@needs_pgbouncer
def test_the_pooler_lets_the_roles_of_processes_through(stack: LocalStack, database_name: str, tmp_path: Path) -> None:
    addresses = stack.environment(database=database_name)
    passwords = {
        name: str(urlsplit(addresses[f"DOCWORKER_{setting}"]).password)
        for name, setting in {"WORKER_PASSWORD": "MASTER_URL", "DISPATCHER_PASSWORD": "DISPATCHER_URL"}.items()
    }
    with temporary_directory() as directory:
        script = directory / "start.sh"
        text = (PROJECT / "deploy/pgbouncer/start.sh").read_text()
        script.write_text(text.replace("docworker = host", f"docworker = dbname={database_name} host"))
        script.chmod(0o755)
        own = directory / "run"
        own.mkdir()
        port = free_port()
        environment = {
            "PATH": f"{Path(str(PROGRAM)).parent}:{os.defpath}",
            "PGBOUNCER_DIRECTORY": str(own),
            "SERVER": HOST,
            "SERVER_PORT": str(stack.master.port),
            "LISTEN_HOST": HOST,
            "LISTEN_PORT": str(port),
            **passwords,
        }
        with running([script], own, environment):
            for role in ("worker", "dispatcher"):
                password = passwords[f"{role.upper()}_PASSWORD"]
                url = f"postgresql://docworker_{role}:{password}@{HOST}:{port}/docworker"
                user = eventually(lambda url=url: user_of(url), within_seconds=20)  # type: ignore[misc]
                assert user == f"docworker_{role}"
            assert asked_for_health("pool-master", port).returncode == 0
            with pytest.raises(psycopg.OperationalError, match=r"password authentication failed|SASL"):
                user_of(f"postgresql://docworker_worker:wrong@{HOST}:{port}/docworker", patient=False)

        assert asked_for_health("pool-master", port).returncode != 0


def asked_for_health(name: str, port: int) -> subprocess.CompletedProcess[bytes]:
    """What a service's check says, by the program that its image has, of a server at this port."""
    flag, program, *options = SERVICES[name]["healthcheck"]["test"]
    assert flag == "CMD"
    options[options.index("--port") + 1] = str(port)
    return subprocess.run([postgres_programs(server_user()) / program, *options], check=False, timeout=30)


def user_of(url: str, *, patient: bool = True) -> str:
    """Who we are there; nothing while it does not answer."""
    try:
        with psycopg.connect(url, connect_timeout=5) as connection:
            [(name,)] = connection.execute("SELECT current_user").fetchall()
            return str(name)
    except psycopg.OperationalError:
        if not patient:
            raise
        return ""


def test_the_broker_asks_for_its_password() -> None:
    service = SERVICES["redis"]
    with temporary_directory() as directory:
        own = directory / "run"
        own.mkdir()
        port = free_port()
        shell, flag, script = service["command"]
        script = script.replace("$$", "$").replace("/tmp/", f"{own}/").replace("/data", str(own))
        script = f"{script.rstrip()} --bind {HOST} --port {port}"
        environment = {"PATH": f"{valkey_programs(server_user())}:{os.defpath}", "BROKER_PASSWORD": "secret"}
        with running([f"/bin/{shell}", flag, script], own, environment):
            with redis.Redis(host=HOST, port=port, password="secret") as client:
                eventually(lambda: answers(client), within_seconds=20)
                assert client.config_get("appendonly") == {"appendonly": "yes"}
            with redis.Redis(host=HOST, port=port) as client, pytest.raises(redis.AuthenticationError):
                client.ping()


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def test_compose_file_is_valid() -> None:
    command = next((one for one in (["docker", "compose"], ["docker-compose"]) if runs(one)), None)
    if command is None:
        pytest.skip("neither `docker compose` nor `docker-compose` is installed")
    checked = subprocess.run(
        [*command, "--file", COMPOSE, "config", "--quiet"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr


def runs(command: list[str]) -> bool:
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run([*command, "version"], capture_output=True, check=False).returncode == 0
