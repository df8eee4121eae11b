"""`docworker search`: find documents that contain words, best first."""

import re

import click
from rich.text import Text

from docworker.db.documents.search import SearchHit, search_documents
from docworker.worker.cli.options import organization_open, organization_option
from docworker.worker.cli.output import console, json_option, print_json
from docworker.worker.cli.printable import printable

MARK = "**"
_SPACE = re.compile(r"\s+")


@click.command(
    epilog="""\b
Examples:
  docworker search "net revenue" -o acme             both words
  docworker search '"net revenue" or profit' -o acme a phrase, or a word
  docworker search "revenue -draft" -o acme          one word, not the other

\b
Words are matched as they are written, whatever the language, without regard to case. The search reads a replica:
texts written a moment ago may still be missing. Nothing found is no error. In JSON, matches stand between ** marks.
"""
)
@click.argument("words")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="Most hits to show.")
@organization_option
@json_option
def search(words: str, limit: int, slug: str, as_json: bool) -> None:
    """Find documents by WORDS, ranked, with the places where they occur."""
    with organization_open("search", slug) as organization_id:
        hits = search_documents(organization_id, words, limit=limit)
    if as_json:
        print_json([_as_json(hit) for hit in hits])
    elif hits:
        for hit in hits:
            _show(hit)
    else:
        click.echo("nothing found", err=True)


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
