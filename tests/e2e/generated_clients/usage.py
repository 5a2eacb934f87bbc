"""Uses the generated Python client against the service: every answer must have its generated type."""

import sys
from io import BytesIO

import httpx
from image_store_client import Client
from image_store_client.api.images import delete_image, image_link, upload_image
from image_store_client.api.service import limits
from image_store_client.api.uploads import abort_upload, complete_upload, plan_upload, upload_status
from image_store_client.models import (
    Deleted,
    Error,
    ImageLink,
    Limits,
    MultipartPlan,
    PutPlan,
    StoredImage,
    UploadForm,
    UploadRequest,
    UploadStatus,
)
from image_store_client.types import File


def answered(answer, kind):
    assert isinstance(answer, kind), f"{answer} is no {kind.__name__}"
    return answer


def token(link: str) -> str:
    return link.split("?plan=")[1]


def main(url: str, path: str) -> None:
    client = Client(base_url=url)
    with open(path, "rb") as file:
        image = file.read()

    accepted = answered(limits.sync(client=client), Limits)
    assert "put" in accepted.upload_methods

    form = UploadForm(file=File(payload=BytesIO(image), file_name="photo.png", mime_type="image/png"))
    stored = answered(upload_image.sync(client=client, body=form), StoredImage)
    assert answered(image_link.sync(stored.s3_key, client=client), ImageLink).size == len(image)
    answered(delete_image.sync(stored.s3_key, client=client), Deleted)
    assert answered(image_link.sync(stored.s3_key, client=client), Error).code == "not_found"

    plan = answered(plan_upload.sync(client=client, body=UploadRequest("photo.png", len(image))), PutPlan)
    httpx.request(plan.method, plan.url, headers=plan.headers.to_dict(), content=image).raise_for_status()
    stored = answered(complete_upload.sync(plan.s3_key, client=client, plan=token(plan.complete_url)), StoredImage)
    assert (stored.width, stored.height) == (16, 12)
    answered(delete_image.sync(stored.s3_key, client=client), Deleted)

    plan = answered(plan_upload.sync(client=client, body=UploadRequest("photo.png", 200 << 20)), MultipartPlan)
    assert sum(part.size for part in plan.parts) == 200 << 20
    status = answered(upload_status.sync(plan.s3_key, client=client, plan=token(plan.status_url)), UploadStatus)
    assert len(status.parts) == len(plan.parts)
    aborted = abort_upload.sync_detailed(plan.s3_key, client=client, plan=token(plan.abort_url))
    assert aborted.status_code == 204


if __name__ == "__main__":
    main(*sys.argv[1:])
