"""`docworker report`: what there is, what happened, what it cost; as a table, a chart, JSON or CSV."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import click

from docworker.db.errors import InvalidArgumentError
from docworker.db.reports.answering import answer
from docworker.db.reports.everywhere import TenantUsage, Totals, Unreached, totals, usage_of_all
from docworker.db.reports.question import Question, check_zone
from docworker.db.reports.report import REPORTS, Report, find_report
from docworker.db.settings import settings
from docworker.worker.cli.errors import Failure
from docworker.worker.cli.options import database_open, organization_open
from docworker.worker.cli.output import print_json, print_table
from docworker.worker.cli.reports.drawing import write_svg
from docworker.worker.cli.reports.forms import print_chart, print_csv, print_rows

TOTALS = "totals"
_SUMMARY_OF_TOTALS = "What all organizations use and keep, by cluster and model."


@dataclass(frozen=True)
class Shown:
    """Rows of `row_type`, and what there is to say of them."""

    row_type: type[Any]
    rows: Sequence[Any]
    is_list: bool = True
    computed_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    is_cut: bool = False
    is_kept: bool = False
    unreached: Sequence[Unreached] = ()


@click.command(
    epilog="""\b
Examples:
  docworker report organization -o acme
  docworker report activity -o acme --since 2026-11-01 --chart
  docworker report folders -o acme --svg folders.svg
  docworker report usage --since 2026-11-01 --until 2026-12-01 --format csv

\b
Read from a replica. Without NAME the reports are listed. `usage` without an organization, and `totals`, are of all of
them; those that could not be reached are named, and the exit code is 1.
"""
)
@click.argument("name", required=False)
@click.option("-o", "--organization", "slug", metavar="SLUG", help="The organization that the report is about.")
@click.option("--since", metavar="TIME", help="From then on: 2026-11-01, or 2026-11-01T12:00+01:00.")
@click.option("--until", metavar="TIME", help="Before then.")
@click.option("--limit", type=click.IntRange(1, 1_000_000), help="At most so many rows.")
@click.option("--zone", help="The time zone of days, such as Europe/Berlin; DOCWORKER_REPORT_TIME_ZONE if left out.")
@click.option(
    "--format", "form", type=click.Choice(["table", "json", "csv"]), default="table", show_default=True, help="As what."
)
@click.option("--chart", is_flag=True, help="Draw it.")
@click.option("--svg", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Draw it into a file.")
@click.option("--live", is_flag=True, help="Compute it now, also where it is kept.")
def report(
    name: str | None,
    *,
    slug: str | None,
    since: str | None,
    until: str | None,
    limit: int | None,
    zone: str | None,
    form: str,
    chart: bool,
    svg: Path | None,
    live: bool,
) -> None:
    """Show a report of an organization, or of all."""
    if name is None:
        summaries = {one.name: one.summary for one in REPORTS.values()} | {TOTALS: _SUMMARY_OF_TOTALS}
        print_table(("report", "shows"), summaries.items())
        return
    about = REPORTS["usage"] if name == TOTALS else find_report(name)
    if (since or until) and not about.has_period:
        raise click.UsageError(f"{name} is of what there is now: leave out --since and --until")
    if (chart or svg) and (form != "table" or about.chart is None):
        drawn = ", ".join(one.name for one in REPORTS.values() if one.chart)
        raise click.UsageError(f"--chart and --svg draw {drawn}, instead of another --format")
    known = check_zone(zone or settings().report_time_zone)
    question = Question(_time(since, known), _time(until, known), known.key, limit)
    shown = _of_all(name, question) if slug is None else _of_one(about, name, slug, question, live=live)
    remembered = _remembered_since(shown.computed_at) if about.of_jobs else {}
    if form == "json":
        _print_json(name, slug, question, shown, remembered)
    elif form == "csv":
        print_csv(shown.row_type, shown.rows)
    elif svg is not None and about.chart is not None:
        write_svg(svg, f"{name} of {slug or 'all'}", shown.rows, *about.chart)
    elif chart and about.chart is not None:
        print_chart(shown.rows, *about.chart)
    else:
        print_rows(shown.row_type, shown.rows, is_list=shown.is_list)
    if form != "json":
        _say(question, shown, remembered)
    if shown.unreached:
        raise Failure(f"{len(shown.unreached)} organizations are in no figure")


def _of_one(about: Report, name: str, slug: str, question: Question, *, live: bool) -> Shown:
    if name == TOTALS:
        raise click.UsageError("totals are of all organizations: leave out --organization")
    with organization_open("report", slug) as organization_id:
        found = answer(about, organization_id, question, live=live)
    is_cut = len(found.rows) == (question.limit or about.limit)
    return Shown(about.row, found.rows, about.is_list, found.computed_at, is_cut, found.is_kept)


def _of_all(name: str, question: Question) -> Shown:
    if name not in ("usage", TOTALS):
        raise click.UsageError(f"{name} is about one organization: name it with --organization")
    with database_open("report"):
        survey = usage_of_all(question)
    if name == TOTALS:
        return Shown(Totals, totals(survey), unreached=survey.unreached)
    return Shown(TenantUsage, survey.found, unreached=survey.unreached)


def _remembered_since(computed_at: datetime) -> dict[str, datetime]:
    """Jobs that ended sooner are pruned."""
    known = settings()
    days = {"succeeded": known.succeeded_retention_days, "failed": known.failed_retention_days}
    return {state: computed_at - timedelta(days=kept) for state, kept in days.items()}


def _print_json(name: str, slug: str | None, question: Question, shown: Shown, remembered: dict[str, datetime]) -> None:
    print_json(
        {
            "report": name,
            "organization": slug,
            "computed_at": shown.computed_at,
            "is_kept": shown.is_kept,
            "since": question.since,
            "until": question.until,
            "zone": question.zone,
            "jobs_remembered_since": remembered or None,
            "unreached": [one._asdict() for one in shown.unreached],
            "rows": shown.rows,
        }
    )


def _say(question: Question, shown: Shown, remembered: dict[str, datetime]) -> None:
    """On stderr, what the rows themselves do not tell."""
    if shown.is_kept:
        hours = (datetime.now(UTC) - shown.computed_at) / timedelta(hours=1)
        click.echo(f"as of {shown.computed_at:%Y-%m-%d %H:%M} UTC, {hours:.1f} hours ago; --live computes it", err=True)
    if shown.is_cut:
        click.echo(f"the first {len(shown.rows)}; there may be more: --limit", err=True)
    for state, moment in remembered.items():
        if question.since is None or question.since < moment:
            click.echo(f"jobs that {state} before {moment:%Y-%m-%d %H:%M} UTC are not counted: pruned", err=True)
    for one in shown.unreached:
        click.echo(f"not reached: {one.organization} on {one.cluster}: {one.reason}", err=True)


def _time(text: str | None, zone: ZoneInfo) -> datetime | None:
    """Without an offset from UTC, in that time zone."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
        return moment if moment.tzinfo is not None else moment.replace(tzinfo=zone)
    except ValueError as error:
        raise InvalidArgumentError(f"{text!r} is not a time: write 2026-11-01, or 2026-11-01T12:00+01:00") from error
