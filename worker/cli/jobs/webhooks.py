"""`docworker webhooks`: where an organization has its events delivered."""

from uuid import UUID

import click

from docworker.db import webhooks as endpoints
from docworker.db.editing.audit import carried_out
from docworker.db.sessions import reading, writing
from docworker.worker.cli.options import actor, organization_open, organization_option
from docworker.worker.cli.output import json_option, print_json, print_table

WEBHOOK_HELP = "WEBHOOK is an endpoint's id, as `docworker webhooks list` shows it."


@click.group()
def webhooks() -> None:
    """Where an organization has its events delivered, signed as Standard Webhooks says."""


@webhooks.command()
@click.argument("url")
@click.option("--description", default="", help="What it is for.")
@click.option("--unordered", is_flag=True, help="Let one event that cannot be delivered hold up no others.")
@organization_option
def add(url: str, description: str, unordered: bool, slug: str) -> None:
    """Add an endpoint; the secret that it gets is shown this once."""
    with organization_open("webhooks", slug) as organization_id:
        endpoint_id, secret = carried_out(
            organization_id,
            lambda session: endpoints.add_webhook(
                session, url, description=description, is_ordered=not unordered, actor=actor()
            ),
        )
    click.echo(f"added {endpoint_id}\nsecret, shown this once: {secret}")


@webhooks.command("list")
@organization_option
@json_option
def list_(slug: str, as_json: bool) -> None:
    """List the endpoints, and which of them are paused or failing."""
    with organization_open("webhooks", slug) as organization_id, reading(organization_id, source="master") as session:
        found = endpoints.list_webhooks(session)
    if as_json:
        print_json(found)
        return
    print_table(
        ("id", "url", "description", "ordered", "state", "since", "why"),
        (
            [
                one.id,
                one.url,
                one.description,
                "yes" if one.is_ordered else "no",
                "paused" if one.paused_at else f"{one.failures} failed" if one.failures else "well",
                one.paused_at or one.failing_since or "",
                one.pause_reason or (one.last_error if one.failures else "") or "",
            ]
            for one in found
        ),
    )


@webhooks.command(epilog=WEBHOOK_HELP)
@click.argument("webhook", type=click.UUID)
@click.option("--reason", default="paused by hand", show_default=True, help="Shown in the list.")
@organization_option
def pause(webhook: UUID, reason: str, slug: str) -> None:
    """Let deliveries to an endpoint wait."""
    with organization_open("webhooks", slug) as organization_id:
        changed = carried_out(
            organization_id, lambda session: endpoints.pause_webhook(session, webhook, reason, actor=actor())
        )
    click.echo(f"{webhook} is paused {'now' if changed else 'already'}")


@webhooks.command(epilog=WEBHOOK_HELP)
@click.argument("webhook", type=click.UUID)
@organization_option
def resume(webhook: UUID, slug: str) -> None:
    """Let deliveries to a paused endpoint go on, those that wait at once."""
    with organization_open("webhooks", slug) as organization_id:
        changed = endpoints.resume_webhook(organization_id, webhook, actor=actor())
    click.echo(f"{webhook} is resumed" if changed else f"{webhook} was not paused")


@webhooks.command(epilog=WEBHOOK_HELP)
@click.argument("webhook", type=click.UUID)
@click.option("--overlap", type=float, default=24.0, show_default=True, metavar="HOURS", help="The old one signs too.")
@organization_option
def rotate(webhook: UUID, overlap: float, slug: str) -> None:
    """Give an endpoint a new secret, which is shown this once."""
    with organization_open("webhooks", slug) as organization_id:
        secret = carried_out(
            organization_id,
            lambda session: endpoints.rotate_webhook(session, webhook, overlap_seconds=overlap * 3600, actor=actor()),
        )
    click.echo(f"new secret, shown this once: {secret}\nthe old one is good for {overlap:g} hours more")


@webhooks.command(epilog=WEBHOOK_HELP)
@click.argument("webhook", type=click.UUID)
@organization_option
def remove(webhook: UUID, slug: str) -> None:
    """Deliver nothing to an endpoint any more, also nothing that waits for it."""
    with organization_open("webhooks", slug) as organization_id:
        carried_out(organization_id, lambda session: endpoints.remove_webhook(session, webhook, actor=actor()))
    click.echo(f"removed {webhook}")


@webhooks.command(epilog=WEBHOOK_HELP)
@click.argument("webhook", type=click.UUID)
@organization_option
def test(webhook: UUID, slug: str) -> None:
    """Enqueue an event of the type `webhook.test` for one endpoint, behind those that wait for it."""
    from docworker.jobs.kinds.webhooks import send_test  # noqa: PLC0415 - it needs Celery

    with organization_open("webhooks", slug) as organization_id, writing(organization_id) as session:
        job_id = send_test(session, webhook)
    click.echo(f"enqueued {job_id}: `docworker jobs show {job_id}` tells what became of it")
