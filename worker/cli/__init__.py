"""`main`: the `docworker` command, with the names and one-line helps of all subcommands.

A subcommand's module is imported only when that subcommand runs; what it does is in the module. What this one imports,
`docworker --help` waits for.
"""

import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import click
from click.shell_completion import CompletionItem

from docworker.db.errors import DocworkerError
from docworker.worker.cli.errors import explained


class Subcommand(NamedTuple):
    """Where a subcommand is in this package (`module:attribute`), and the line it has in `docworker --help`."""

    target: str
    summary: str
    extra: str | None = None
    """The optional packages that it needs: those of docworker[EXTRA]."""

    def load(self) -> click.Command:
        """Raises DocworkerError when an optional package is not installed."""
        module, _, attribute = self.target.partition(":")
        try:
            command = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
        except ModuleNotFoundError as error:
            if self.extra is None:
                raise
            raise DocworkerError(
                f"this needs the package {error.name!r}: install it with `pip install 'docworker[{self.extra}]'`"
                + ("; or point the DOCWORKER_* settings at servers of your own" if self.extra == "local" else "")
            ) from error
        if not isinstance(command, click.Command):
            raise TypeError(f"{self.target} is not a click command")
        return command


SECTIONS: Mapping[str, Mapping[str, Subcommand]] = {
    "Run": {
        "up": Subcommand("run.stack:up", "Start the local servers and every process in the foreground.", "local"),
        "stack": Subcommand("run.stack:stack", "Look at the local servers, or run one command against them.", "local"),
        "migrate": Subcommand("run.migrate:migrate", "Bring the database's schema up to date."),
        "worker": Subcommand("run.worker:worker", "Run jobs."),
        "dispatcher": Subcommand("run.processes:dispatcher", "Move due jobs from the ledger to the broker."),
        "beat": Subcommand("run.processes:beat", "Enqueue scheduled jobs when they are due."),
        "api": Subcommand("run.api:api", "Answer callers of the HTTP API.", "api"),
        "console": Subcommand("run.console:console", "Show pages to look at jobs and to act on them.", "console"),
        "health": Subcommand("run.health:health", "Ask a running process whether it is well."),
        "status": Subcommand("run.status:status", "Show which processes of the installation live, on all machines."),
        "doctor": Subcommand("run.doctor:doctor", "Find what is wrong with an installation, and say what to do."),
        "config": Subcommand("run.doctor:config", "Print the settings in force, without passwords."),
        "demo": Subcommand("run.demo:demo", "Start everything, process the samples, show the result.", "local"),
    },
    "Tenants": {
        "organizations": Subcommand("tenants.organizations:organizations", "Add organizations to the shared tables."),
        "tenants": Subcommand(
            "tenants.tenants:tenants",
            "Place and list organizations: create, suspend, drop, export, import and restore them.",
        ),
        "check": Subcommand(
            "tenants.check:check", "Prove on the servers that organizations are kept apart, and that invariants hold."
        ),
    },
    "Documents": {
        "import": Subcommand("documents.imports:import_", "Mirror a folder of files and process them."),
        "watch": Subcommand("documents.watch:watch", "Import files as they come to be in a folder."),
        "documents": Subcommand(
            "documents.documents:documents", "Show the tree of documents; move, delete, tag and assign them."
        ),
        "folders": Subcommand("documents.folders:folders", "Make, rename, move and delete folders."),
        "search": Subcommand("documents.search:search", "Find documents by words."),
        "history": Subcommand("documents.versions:history", "List the versions of a document."),
        "show": Subcommand("documents.versions:show", "Print the text of a document."),
        "diff": Subcommand("documents.versions:diff", "Compare two versions of a document."),
        "reprocess": Subcommand("documents.reprocess:reprocess", "Make texts of older processors anew, or show it."),
        "restore": Subcommand("documents.restore:restore", "Make an old version the newest one again."),
    },
    "People": {
        "users": Subcommand("people.users:users", "Add, list, deactivate and delete users."),
        "tokens": Subcommand("people.tokens:tokens", "Create, list and revoke tokens for the HTTP API."),
        "audit": Subcommand("people.audit:audit", "Show who did what to what."),
    },
    "Reports": {
        "report": Subcommand("reports.report:report", "Show what there is, what happened, and what it cost."),
    },
    "Jobs": {
        "enqueue": Subcommand("jobs.enqueue:enqueue", "Enqueue a job of any kind."),
        "jobs": Subcommand("jobs.jobs:jobs", "List, show, watch, retry, cancel and pause jobs."),
        "weights": Subcommand("jobs.weights:weights", "Give organizations more or less of the workers' time."),
        "limits": Subcommand("jobs.limits:limits", "Limit the jobs that run at a time, and how often, while they run."),
        "webhooks": Subcommand("jobs.webhooks:webhooks", "Say where an organization has its events delivered."),
        "backfill": Subcommand("jobs.backfill:backfill", "Fill a column over many rows beside the running system."),
        "schedules": Subcommand(
            "jobs.schedules:schedules", "Show, add, edit, pause, run and delete what is done regularly."
        ),
    },
}


class LazyGroup(click.Group):
    """A group that knows its subcommands by name and imports one only when it is asked for."""

    subcommands: Mapping[str, Subcommand] = {
        name: subcommand for section in SECTIONS.values() for name, subcommand in section.items()
    }

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click calls it so
        return [*self.subcommands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """click calls this before the group's function, so what a subcommand imports finds its settings in force."""
        subcommand = self.subcommands.get(cmd_name)
        if subcommand is None:
            return None
        if not ctx.resilient_parsing:  # a shell that completes a line runs nothing
            # Here, because it imports pydantic: `docworker --help` would take five times as long.
            from docworker.worker.cli.local_settings import use_local_stack, warn_of_unknown  # noqa: PLC0415

            warn_of_unknown(cmd_name)
            use_local_stack(cmd_name)
        return subcommand.load()

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Raises NoSuchCommand with the names that may have been meant: click itself knows those of no lazy group."""
        try:
            return super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand as error:
            raise click.exceptions.NoSuchCommand(error.command_name, possibilities=self.subcommands, ctx=ctx) from None

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        names = (name for name in self.subcommands if name.startswith(incomplete))
        commands = [CompletionItem(name, help=self.subcommands[name].summary) for name in names]
        return commands or click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        for title, section in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, subcommand.summary) for name, subcommand in section.items()])

    def invoke(self, ctx: click.Context) -> Any:
        with explained(ctx):
            return super().invoke(ctx)


EPILOG = """\b
Examples:
  docworker up                                      everything on this machine, until Ctrl-C
  docworker organizations add acme                  make a tenant
  docworker import ./reports --organization acme    files in, processed texts out
  docworker search "net revenue" --organization acme

\b
Settings are environment variables named DOCWORKER_…; `docworker up` needs none. While it runs, commands in the same
directory use its servers, unless one of DOCWORKER_MASTER_URL and the other addresses is set.
Exit codes: 0 done, 1 an error that the message explains, 2 wrong usage, 130 interrupted.
"""


@click.group(
    cls=LazyGroup,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(package_name="docworker", message="docworker %(version)s")
def main() -> None:
    """Process the documents of many organizations in the background.

    Files come in, workers extract, clean, describe and index them, and each result is kept as a new version.
    PostgreSQL holds the truth, Redis only carries, Celery runs it.
    """
