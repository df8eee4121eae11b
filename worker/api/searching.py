"""`OPERATIONS` of search: documents by words."""

from starlette.responses import Response

from docworker.db.documents.reading import Filters
from docworker.db.documents.search import search_documents
from docworker.db.tokens import Scope
from docworker.worker.api import answers
from docworker.worker.api.documents import folder
from docworker.worker.api.operations import Call, Operation, json_response


def search(call: Call) -> Response:
    organization_id, asked = call.caller.organization_id, call.asked
    filters = Filters(folder(organization_id, asked.folder))
    found = search_documents(organization_id, asked.q, limit=asked.limit, offset=asked.offset, filters=filters)
    hits = [answers.Hit.model_validate(one) for one in found]
    return json_response(answers.Hits(hits=hits, did_you_mean=found.did_you_mean))


OPERATIONS = (
    Operation(
        "search",
        "GET",
        "/v1/search",
        Scope.SEARCH,
        search,
        "Find documents by words, the best ones first.",
        {200: answers.Hits},
        query=answers.SearchAsked,
        problems=(404,),
    ),
)
