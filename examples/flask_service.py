"""Upload, progress, result and search with Flask: `flask --app flask_service run`."""

import os

from flask import Flask, Response, request

import docworker as d

app = Flask(__name__)
app.wsgi_app = d.WsgiReadYourWrites(app.wsgi_app, secret=os.environ["SECRET"])
d.open_database(application_name="flask service")
STATUS = {d.NotFoundError: 404, d.NameTakenError: 409, d.StoreError: 503}
app.register_error_handler(d.DocworkerError, lambda error: ({"error": str(error)}, STATUS.get(type(error), 422)))


@app.post("/<tenant>/documents")
def upload(tenant):
    with d.writing(d.organization_id_of(tenant)) as session:
        received = d.receive(session, request.files["file"], request.files["file"].filename)
    return {"document": received.document_id, "job": received.job_id}, 201


@app.get("/<tenant>/jobs/<uuid:job_id>/progress")
def progress(tenant, job_id):
    watch = d.watch_jobs(d.organization_id_of(tenant), [job_id])
    return Response((f"data: {one.ended}\n\n" for one in watch), mimetype="text/event-stream")


@app.get("/<tenant>/jobs/<uuid:job_id>")
def result(tenant, job_id):
    job = d.get_job(d.organization_id_of(tenant), job_id)
    return {"state": job.state, "result": job.result, "error": job.error_message}


@app.get("/<tenant>/search")
def search(tenant):
    return [hit.path for hit in d.search_documents(d.organization_id_of(tenant), request.args["words"])]
