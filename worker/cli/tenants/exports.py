"""`docworker tenants export`: one organization into a directory or a zip."""

from pathlib import Path

import click

from docworker.db.editing.audit import on_record
from docworker.db.tenants.archive import Manifest
from docworker.db.tenants.exporting import export_organization
from docworker.worker.cli.options import actor, organization_open
from docworker.worker.cli.output import json_option, print_json


@click.command(
    epilog="""\b
Examples:
  docworker tenants export acme backup/acme.zip
  docworker tenants export acme backup/acme --no-sources

\b
Jobs are not exported. What is written stands in PATH.partial until it is whole: when the command was cut off, run it
again, and it goes on from there.
"""
)
@click.argument("slug")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--no-sources", is_flag=True, help="Leave out the files that were imported, and take the texts only.")
@click.option("--force", is_flag=True, help="Replace an export that is at PATH already.")
@json_option
def export(slug: str, path: Path, *, no_sources: bool, force: bool, as_json: bool) -> None:
    """Export an organization to PATH: a zip if it ends in .zip, and a directory else."""
    with (
        organization_open("tenants", slug) as organization_id,
        on_record("exported", actor=actor(), subject="organization", slug=slug, path=str(path)) as doing,
    ):
        doing.subject_id = organization_id
        manifest = export_organization(organization_id, path, with_sources=not no_sources, force=force)
    if as_json:
        print_json({"path": path, **_counts(manifest)})
        return
    counts = _counts(manifest)
    click.echo(
        f"exported {slug} as of {manifest.exported_at} to {path}: {counts['documents']} documents, "
        f"{counts['document_versions']} versions, "
        + ("no sources" if manifest.sources is None else f"{manifest.sources} sources")
    )
    if manifest.missing_sources:
        click.echo(
            f"{len(manifest.missing_sources)} sources that documents name are not in the store; the export has their "
            "texts only, and the manifest lists them",
            err=True,
        )


def _counts(manifest: Manifest) -> dict[str, object]:
    return {
        **{name: table.rows for name, table in manifest.tables.items()},
        "sources": manifest.sources,
        "missing_sources": manifest.missing_sources,
        "exported_at": manifest.exported_at,
    }
