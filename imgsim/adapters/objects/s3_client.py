"""The driver's connection to an S3 server."""

from contextlib import AbstractAsyncContextManager
from typing import Any

import aioboto3
from aiobotocore.config import AioConfig

from imgsim import __version__
from imgsim.adapters.objects.s3_location import S3Location
from imgsim.core.errors import SettingsError


async def open_session() -> Any:
    """``SettingsError`` without credentials."""
    session = aioboto3.Session()
    if await session.get_credentials() is None:
        raise SettingsError(
            "No S3 credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "or another of the sources that AWS's tools read."
        )
    return session


def region_of(location: S3Location, session: Any) -> str:
    return location.region or session.region_name or "us-east-1"


def connect(session: Any, endpoint: str, region: str) -> AbstractAsyncContextManager[Any]:
    """The driver's client for `endpoint`, empty for AWS."""
    config = AioConfig(
        signature_version="s3v4",
        connect_timeout=3,
        read_timeout=30,
        max_pool_connections=50,
        retries={"mode": "standard", "total_max_attempts": 2},
        # Trailing checksums, botocore's default, are refused by servers of some years ago. Ours are headers.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        # The signed header with the checksum does it; signing the bytes would hash them again, in the event loop.
        # Without "virtual", presigned URLs name AWS's global host, which redirects to the region: not as signed.
        s3={"payload_signing_enabled": False, "addressing_style": "path" if endpoint else "virtual"},
        ignore_configured_endpoint_urls=True,  # imgsim's settings alone say where
        user_agent=f"imgsim/{__version__}",
    )
    client: AbstractAsyncContextManager[Any] = session.client(
        "s3", region_name=region, endpoint_url=endpoint or None, config=config
    )
    return client
