"""`docworker tenants import`: an exported organization, with the same ids."""

from pathlib import Path
from uuid import UUID

import click

from docworker.db.editing.audit import on_record
from docworker.worker.cli.options import actor, database_open
from docworker.worker.cli.output import json_option, print_json
from docworker.worker.cli.tenants.places import place_options
from docworker.worker.tenants.importing import import_organization
from docworker.worker.tenants.places import Model


@click.command(
    "import",
    epilog="""\b
Examples:
  docworker tenants import backup/acme.zip
  docworker tenants import backup/acme --slug acme-of-old
  docworker tenants import backup/acme --model schema --cluster east

\b
The whole export is verified before anything is written. When the command was cut off, run it again, and it finishes.
Needs DOCWORKER_OWNER_URL and DOCWORKER_MASTER_URL, and the workers' DOCWORKER_STORE if there are sources.
""",
)
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--slug", help="The organization's name in commands here; as it was if left out.")
@place_options
@json_option
def import_(path: Path, slug: str | None, *, model: str, cluster: str, place_name: str | None, as_json: bool) -> None:
    """Import an organization from PATH, a zip or a directory that was exported."""
    with (
        database_open("tenants"),
        on_record(
            "imported", actor=actor(), subject="organization", slug=slug, path=str(path), model=model, cluster=cluster
        ) as doing,
    ):
        manifest = import_organization(path, slug=slug, model=Model(model), cluster=cluster, place_name=place_name)
        doing.subject_id = UUID(manifest.organization_id)
        doing.details["slug"] = slug or manifest.slug
    documents, versions = (manifest.tables[name].rows for name in ("documents", "document_versions"))
    if as_json:
        print_json(
            {
                "organization_id": manifest.organization_id,
                "slug": slug or manifest.slug,
                "documents": documents,
                "document_versions": versions,
                "sources": manifest.sources,
            }
        )
    else:
        click.echo(f"imported {slug or manifest.slug}: {documents} documents, {versions} versions")
