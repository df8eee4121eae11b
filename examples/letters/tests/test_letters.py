"""Tests of one's own kinds, on a real ledger: the fixtures come with docworker."""

from letters.kinds import archive_letters, count_words
from letters.processors import Redact

from docworker import enqueue, process_document, receive, writing
from docworker.jobs.pipeline import Draft, Original


def test_words_are_counted(docworker_tenant):
    with writing(docworker_tenant.id) as session:
        letter = receive(session, b"Three short words", "letter.txt")
        job_id = enqueue(session, count_words, document_id=letter.document_id)
    docworker_tenant.assert_enqueued(process_document, document_id=letter.document_id)
    docworker_tenant.drain()
    assert docworker_tenant.job(job_id).result == {"words": 3}


def test_letters_are_archived_together_and_a_missing_one_fails_alone(docworker_tenant):
    with writing(docworker_tenant.id) as session:
        letter = receive(session, b"Dear all", "a.txt")
        good = enqueue(session, archive_letters, document_id=letter.document_id)
        bad = enqueue(session, archive_letters, document_id=docworker_tenant.id, max_attempts=1)
    docworker_tenant.drain()
    assert docworker_tenant.job(good).result == {"archived": "a.txt"}
    assert docworker_tenant.job(bad).state == "failed"


def test_account_numbers_are_hidden():
    draft = Redact().process(Draft(Original(text=""), "Pay to DE12 5001 0517 0648 4898."))
    assert draft.text == "Pay to [account]."
