"""What the errors of S3 mean to imgsim, and to the one who runs it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from botocore.exceptions import BotoCoreError, ClientError

from imgsim.core.errors import ImgsimError, ObjectNotFound, Unavailable

DRIVER_ERRORS = (ClientError, BotoCoreError, aiohttp.ClientError, TimeoutError)
"""What a call to S3 may raise."""

CALL_SECONDS = 60.0
"""How long one call may take, with its second attempt: 16 MiB at 280 kB/s."""

_PERMISSIONS = {
    "HeadBucket": "s3:ListBucket",
    "ListObjectsV2": "s3:ListBucket",
    "HeadObject": "s3:GetObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
}
_KEYS = "look at AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
_REASONS = {
    "InvalidAccessKeyId": f"it does not know the access key: {_KEYS}",
    "SignatureDoesNotMatch": f"the secret key is not the one of this access key: {_KEYS}",
    "ExpiredToken": "the credentials have expired",
    "ExpiredTokenException": "the credentials have expired",
    "InvalidToken": "the session token is not valid: look at AWS_SESSION_TOKEN",
    "RequestTimeTooSkewed": "the clock of this machine is more than 15 minutes off",
    "AuthorizationHeaderMalformed": "the bucket is in another region: name it with ?region= in its URL",
    "PermanentRedirect": "the bucket is in another region: name it with ?region= in its URL",
    "SlowDown": "it has too many requests",
    "NoSuchBucket": "the bucket is not there",
}


def http_status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


@asynccontextmanager
async def translated(bucket: str, seconds: float | None, key: str = "") -> AsyncIterator[None]:
    """Errors of the driver become imgsim's: ``ObjectNotFound`` for a missing `key`, else ``Unavailable``.

    What takes longer than `seconds` (None: as long as it takes) is ``Unavailable`` too.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except DRIVER_ERRORS as error:
        if isinstance(error, ClientError):
            raise _explained(error, bucket, key) from error
        reason = str(error).rstrip(".") or "no answer in time"
        raise Unavailable(f"The object store of the bucket {bucket} cannot be reached: {reason}.") from error


def _explained(error: ClientError, bucket: str, key: str) -> ImgsimError:
    code, status, operation = error.response["Error"].get("Code", ""), http_status(error), error.operation_name
    if code == "NoSuchKey":
        return ObjectNotFound(f"No object has the key {key}.")
    if code in _REASONS:
        reason = _REASONS[code]
    elif operation == "HeadBucket" and status == 404:
        reason = _REASONS["NoSuchBucket"]
    elif operation == "CreateBucket" and status == 403:
        reason = "the bucket is not there, and the credentials lack the permission s3:CreateBucket to make it"
    elif status == 403:
        reason = f"the credentials lack the permission {_PERMISSIONS.get(operation, f's3:{operation}')}"
    else:
        reason = f"it answers {operation} with {status} {code}"
    return Unavailable(f"The object store refuses the bucket {bucket}: {reason}.")
