"""A parser that a document has taken over reaches no file, no network and no process but its own."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from docworker.jobs.pipeline import parser_process
from docworker.jobs.pipeline.confinement import offered
from docworker.jobs.pipeline.limits import MIB, Limits
from docworker.jobs.pipeline.media_types import HTML
from docworker.jobs.pipeline.sandbox import Sandbox
from tests.support.project import PROJECT

# Reads each document as a program that has taken the parser over: runs it, and tells what came of it. The whole of our
# child's code stands around it.
HOSTILE = """
import ctypes, errno, os, resource, signal, socket, sys
from docworker.jobs.pipeline import child
from docworker.jobs.pipeline.formats import Reading
def call(name, *arguments):
    result = getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments)
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
def hostile(data, limits):
    try:
        exec(data, globals())
    except OSError as error:
        return Reading(text=errno.errorcode[error.errno])
    return Reading(text="done")
child.reader_of = lambda media_type: hostile
"""
RUN = "child.main(sys.argv[1:])"
UNCONFINED = "child.confine = lambda readable: None\n"


@dataclass(frozen=True)
class Victim:
    """What a taken over parser would like to reach. Its process ends only after the parsers that trace it."""

    pid: int
    folder: Path
    port: int

    @property
    def socket(self) -> Path:
        return self.folder / "socket"


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    folder = tmp_path_factory.mktemp("store")
    (folder / "document").write_text("of another organization")
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as local,
        subprocess.Popen(["sleep", "600"], env={"DOCWORKER_MASTER_URL": "secret"}) as process,
    ):
        local.bind(str(folder / "socket"))
        local.listen()
        yield Victim(process.pid, folder, tcp.getsockname()[1])
        process.kill()


def sandbox_of(boot: str) -> Iterator[Sandbox]:
    with Sandbox(Limits(memory_bytes=512 * MIB)) as sandbox:
        with pytest.MonkeyPatch.context() as patch:
            path = parser_process._BOOT.split("; ")[:2]
            patch.setattr(parser_process, "_BOOT", "; ".join(path) + boot)
            assert sandbox.read(HTML, b"pass").text == "done"
        yield sandbox


@pytest.fixture(scope="module")
def confined(victim: Victim) -> Iterator[Sandbox]:
    yield from sandbox_of(HOSTILE + RUN)


@pytest.fixture(scope="module")
def unconfined(victim: Victim) -> Iterator[Sandbox]:
    yield from sandbox_of(HOSTILE + UNCONFINED + RUN)


# By what is done; `{…}` are the victim's. Each tells of success by ending without an exception.
DEEDS = {
    "read a file of the system": "open('/etc/passwd').read()",
    "read a document of another organization": "open('{folder}/document').read()",
    "list the store": "os.listdir('{folder}')",
    "read a file of the project": "open('{project}/pyproject.toml').read()",
    "read the environment of the worker": "open(f'/proc/{{os.getppid()}}/environ').read()",
    "read the environment of another process": "open('/proc/{pid}/environ').read()",
    "read the memory of another process": "open('/proc/{pid}/mem').read(0)",
    "connect by TCP": "socket.create_connection(('127.0.0.1', {port}), timeout=5)",
    "connect by UDP": "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))",
    "connect to a Unix socket": "socket.socket(socket.AF_UNIX).connect('{socket}')",
    "listen": "socket.create_server(('127.0.0.1', 0))",
    "make a pair of sockets": "socket.socketpair()",
    "ask the kernel by netlink": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "write a file": "open('{folder}/new', 'w')",
    "write into a document": "open('{folder}/document', 'r+')",
    "append to a document": "open('{folder}/document', 'a')",
    "make a file in memory": "os.memfd_create('x')",
    "make a folder": "os.mkdir('{folder}/new-folder')",
    "rename a document": "os.rename('{folder}/document', '{folder}/document')",
    "link a document": "os.link('{folder}/document', '{folder}/linked')",
    "change rights": "os.chmod('{folder}/document', 0o600)",
    "change times": "os.utime('{folder}/document')",
    "write into its own libraries": "open(child.__file__, 'r+')",
    "signal the worker": "os.kill(os.getppid(), 0)",
    "signal another process": "os.kill({pid}, 0)",
    "signal a group": "os.killpg(os.getpgid({pid}), 0)",
    "choose who is signalled of its pipe": "import fcntl; fcntl.fcntl(0, fcntl.F_SETOWN, {pid})",
    "trace another process": "call('ptrace', 0x4206, {pid}, None, None)",
    "set limits of another process": "resource.prlimit({pid}, resource.RLIMIT_CORE)",
    "lift its own limits": "resource.prlimit(0, resource.RLIMIT_AS)",
    "go down in priority": "os.nice(1)",
    "hold a key of the kernel": "call('syscall', 248, b'user', b'x', b'x', 1, -3)",
    "ask for asynchronous calls": "call('syscall', 425, 1, (ctypes.c_char * 120)())",
    "watch files": "call('inotify_init1', 0)",
    "leave its name": "call('prctl', 15, b'other', 0, 0, 0)",
    "run a program": "pid = os.posix_spawn('/bin/true', ['true'], {{}}); os.waitpid(pid, 0)",
    "fork": "pid = os.fork(); pid or os._exit(0); os.waitpid(pid, 0)",
}
NEEDS_MORE_PROCESSES = {"run a program", "fork"}
"""Not possible for an unconfined one either unless it is root: it may have no more processes."""


def done_by(sandbox: Sandbox, victim: Victim, deed: str) -> str:
    """Says "done", or the name of the error; a child that died of it is not replaced by another such one."""
    code = DEEDS[deed].format(
        pid=victim.pid, folder=victim.folder, port=victim.port, socket=victim.socket, project=PROJECT
    )
    return sandbox.read(HTML, code.encode()).text


@pytest.mark.skipif(not offered().is_whole, reason="this kernel confines nothing, or not all")
@pytest.mark.parametrize("deed", DEEDS)
def test_confined_parser_cannot(confined: Sandbox, unconfined: Sandbox, victim: Victim, deed: str) -> None:
    assert done_by(confined, victim, deed) in {"EACCES", "EPERM"}
    if deed not in NEEDS_MORE_PROCESSES or os.geteuid() == 0:
        assert done_by(unconfined, victim, deed) == "done", "so the confined one would not be kept from anything"


NOWHERE = {"DOCWORKER_MASTER_URL": "postgresql://nobody@localhost:1/nothing"}
"""The sandbox is looked at before anybody is connected to."""

# Starts as in a container whose filter keeps Landlock from us, then one that keeps seccomp from us as well.
KEPT_FROM_US = """
import ctypes, errno, os, sys
from docworker.jobs.pipeline.confinement import offered, seccomp
from docworker.jobs.pipeline.limits import Limits
from docworker.jobs.pipeline.sandbox import Sandbox
prctl = {"x86_64": 157, "aarch64": 167}[os.uname().machine]
ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)
for kept in (
    seccomp.when(444, [], 0x50000 | errno.ENOSYS),
    seccomp.when(prctl, [seccomp.Given(0, (22,))], 0x50000 | errno.EINVAL),
):
    seccomp.install([(0x20, 0, 0, 0), *kept, (0x06, 0, 0, 0x7FFF0000)])
    offered.cache_clear()
    print(offered())
    with Sandbox(Limits()) as sandbox:
        print(sandbox.read("text/html", b"<p>read all the same").text, flush=True)
os.execv(sys.executable, [sys.executable, "-m", "docworker.worker.cli", "worker"])
"""


@pytest.mark.skipif(not offered().is_whole, reason="nothing to be kept from us")
def test_where_the_kernel_does_not_confine_it_is_said_and_a_worker_that_requires_it_does_not_start(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KEPT_FROM_US],
        env={**os.environ, **NOWHERE, "DOCWORKER_SANDBOX": "required", "PYTHONPATH": str(PROJECT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    without_landlock, first, without_both, second = done.stdout.splitlines()
    assert without_landlock.endswith("no Landlock here, so files can be read")
    assert without_both.startswith("limits only")
    assert first == second == "read all the same"
    assert done.returncode == 1
    assert without_both in done.stderr
    assert "DOCWORKER_SANDBOX=best" in done.stderr
    assert "Traceback" not in done.stderr
