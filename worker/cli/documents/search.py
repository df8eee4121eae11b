"""`docworker search`: find documents that contain words, best first."""

import re
from datetime import datetime

import click
from rich.text import Text

from docworker.db.documents.reading import Filters, folder_at, parse_path
from docworker.db.documents.search import SearchHit, search_documents
from docworker.db.documents.search.finding import MOST_RANKED
from docworker.db.editing.users import list_users
from docworker.worker.cli.options import Moment, organization_open, organization_option
from docworker.worker.cli.output import console, json_option, print_json
from docworker.worker.printable import printable

MARK = "**"
_SPACE = re.compile(r"\s+")


@click.command(
    epilog="""\b
Examples:
  docworker search net revenue -o acme               both words, in any of their forms
  docworker search '"net revenue" or profit' -o acme a phrase, or a word
  docworker search "revenue -draft" -o acme          one word, not the other
  docworker search 'invoic*' -o acme                 all words that begin so
  docworker search revenue -o acme --under /reports --tag board --since 2026-01-01T00:00Z

\b
Case, accents and punctuation do not count; parts of numbers and addresses are found. The search reads a replica: texts
written a moment ago may still be missing. Nothing found is no error. In JSON, matches stand between ** marks.
"""
)
@click.argument("words", nargs=-1, required=True)
@click.option("--under", default="/", metavar="FOLDER", help="Only documents below this folder.")
@click.option("--tag", help="Only documents with this tag.")
@click.option("--owner", metavar="USER", help="Only documents of this user, by address or id.")
@click.option("--type", "media_type", metavar="TYPE", help="Only documents of this media type, such as text/html.")
@click.option("--language", metavar="CODE", help="Only documents in this language, such as de.")
@click.option("--since", type=Moment(), help="Only documents that came in from this time on.")
@click.option("--until", type=Moment(), help="Only documents that came in before this time.")
@click.option("--limit", type=click.IntRange(1, MOST_RANKED), default=20, show_default=True, help="Most hits to show.")
@click.option("--offset", type=click.IntRange(0, MOST_RANKED - 1), default=0, help="Pass over the best so many.")
@organization_option
@json_option
def search(
    words: tuple[str, ...],
    under: str,
    tag: str | None,
    owner: str | None,
    media_type: str | None,
    language: str | None,
    since: datetime | None,
    until: datetime | None,
    limit: int,
    offset: int,
    slug: str,
    as_json: bool,
) -> None:
    """Find documents by WORDS, ranked, with the places where they occur."""
    with organization_open("search", slug) as organization_id:
        filters = Filters(
            folder_at(organization_id, parse_path(under)),
            tag=tag,
            owner_id=None if owner is None else list_users(organization_id, email_or_id=owner)[0].id,
            media_type=media_type,
            language=language,
            since=since,
            until=until,
        )
        hits = search_documents(organization_id, " ".join(words), limit=limit, offset=offset, filters=filters)
    if as_json:
        print_json([_as_json(hit) for hit in hits])
    elif hits:
        for hit in hits:
            _show(hit)
    else:
        click.echo("nothing found", err=True)
    if hits.did_you_mean is not None:
        click.echo(f"did you mean: {printable(hits.did_you_mean)}?", err=True)


def _show(hit: SearchHit) -> None:
    heading = Text(printable(hit.path), style="bold")
    if hit.title:
        heading.append(f"  {printable(hit.title)}", style="not bold")
    heading.append(f"  v{hit.version_number}  {hit.rank:.2f}", style="not bold dim")
    snippet = Text("  ")
    for fragment in hit.snippet:
        text = printable(_SPACE.sub(" ", fragment.text))
        snippet.append(text, style="bold yellow" if fragment.is_match else "")
    out = console()
    out.print(heading)
    out.print(snippet)


def _as_json(hit: SearchHit) -> dict[str, object]:
    return {
        "document_id": hit.document_id,
        "path": hit.path,
        "title": hit.title,
        "rank": hit.rank,
        "version_number": hit.version_number,
        "snippet": "".join(f"{MARK}{one.text}{MARK}" if one.is_match else one.text for one in hit.snippet),
    }
