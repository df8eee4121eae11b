"""Upload, progress, result and search with FastAPI: `uvicorn fastapi_service:app`."""

import os
from uuid import UUID

from fastapi import FastAPI, UploadFile
from fastapi.responses import JSONResponse, StreamingResponse

from docworker import DocworkerError, NameTakenError, NotFoundError, ReadYourWrites, StoreError, aio, receive

app = FastAPI(lifespan=aio.lifespan)
app.add_middleware(ReadYourWrites, secret=os.environ["SECRET"])
STATUS = {NotFoundError: 404, NameTakenError: 409, StoreError: 503}


@app.exception_handler(DocworkerError)
async def explain(_: object, error: DocworkerError) -> JSONResponse:
    return JSONResponse({"error": str(error)}, STATUS.get(type(error), 422))


@app.post("/{tenant}/documents", status_code=201)
async def upload(tenant: str, file: UploadFile) -> dict[str, UUID]:
    async with aio.writing(await aio.organization_id_of(tenant)) as session:
        received = await receive(session, file, file.filename or "", media_type=file.content_type)
    return {"document": received.document_id, "job": received.job_id}


@app.get("/{tenant}/jobs/{job_id}/progress")
async def progress(tenant: str, job_id: UUID) -> StreamingResponse:
    watch = aio.watch_jobs(await aio.organization_id_of(tenant), [job_id])
    return StreamingResponse((f"data: {one.ended}\n\n" async for one in watch), media_type="text/event-stream")


@app.get("/{tenant}/jobs/{job_id}")
async def result(tenant: str, job_id: UUID) -> dict[str, object]:
    job = await aio.get_job(await aio.organization_id_of(tenant), job_id)
    return {"state": job.state, "result": job.result, "error": job.error_message}


@app.get("/{tenant}/search")
async def search(tenant: str, words: str) -> list[str]:
    return [hit.path for hit in await aio.search_documents(await aio.organization_id_of(tenant), words)]
