"""A minimal version of the service that this one replaces: FastAPI and Mangum on Lambda, with boto3 for S3."""

import os
import uuid

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError
from fastapi import FastAPI, File, HTTPException, UploadFile
from mangum import Mangum

BUCKET = os.environ["S3_BUCKET"]
FORMATS = {"jpg", "jpeg", "png", "gif", "bmp"}

app = FastAPI()
s3 = boto3.client("s3", config=Config(s3={"addressing_style": "path"}))


@app.post("/upload-image")
async def upload_image(file: UploadFile = File(None)):
    if file is None:
        raise HTTPException(status_code=400, detail="No file uploaded")
    extension = (file.filename or "").rsplit(".", 1)[-1].lower()
    if extension not in FORMATS:
        raise HTTPException(status_code=400, detail="Invalid file type")
    key = f"{uuid.uuid4()}.{extension}"
    try:
        s3.put_object(Bucket=BUCKET, Key=key, Body=await file.read(), ContentType=file.content_type)
        url = s3.generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": key}, ExpiresIn=3600)
    except ClientError as error:
        raise HTTPException(status_code=500, detail="The image could not be stored") from error
    return {"url": url, "s3_key": key}


@app.delete("/delete/{file_name}")
async def delete_image(file_name: str):
    try:
        s3.head_object(Bucket=BUCKET, Key=file_name)
    except ClientError as error:
        raise HTTPException(status_code=404, detail="File not found") from error
    s3.delete_object(Bucket=BUCKET, Key=file_name)
    return {"detail": f"File '{file_name}' deleted successfully"}


handler = Mangum(app, lifespan="off")
