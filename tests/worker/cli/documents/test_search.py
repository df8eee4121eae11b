"""`docworker search` as the documentation shows it."""

import re
import shlex

import pytest
from sqlalchemy import update

from docworker.db.documents.tags import tag_document
from docworker.db.models import Document
from docworker.db.sessions import writing
from docworker.worker.local.stack import LocalStack
from tests.support.commands import docworker
from tests.support.project import PROJECT
from tests.support.tenants import Tenant


@pytest.mark.usefixtures("opened")
def test_the_commands_of_the_documentation_find_something(stack: LocalStack) -> None:
    told = Tenant()
    document_id = told.write("/reports/a.txt", "Net revenue of the lighthouse, by its keeper. Invoices.", language="en")
    with writing(told.id) as session:
        session.execute(update(Document).values(media_type="text/plain"))
        tag_document(session, document_id, ["board"])
    stack.wait_for_replicas()
    page = (PROJECT / "docs" / "search.md").read_text()
    commands = [shlex.split(line)[1:] for line in re.findall(r"^ {4}(docworker .*)", page, re.MULTILINE)]
    assert len(commands) >= 6
    for command in commands:
        answer = docworker(*(told.slug if word == "acme" else word for word in command))
        assert answer.exit_code == 0, (command, answer.err)
        assert answer.out.startswith("/reports/a.txt") or "--offset" in command, command
