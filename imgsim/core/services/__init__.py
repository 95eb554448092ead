"""What imgsim does for its callers: take images in, search them, look after them."""

from imgsim.core.services.direct import Announced, DirectUploadService
from imgsim.core.services.duplicates import DuplicatesService
from imgsim.core.services.ingest import ImageReader, IngestService
from imgsim.core.services.lifecycle import LifecycleService
from imgsim.core.services.search import SearchService
from imgsim.core.services.thumbnails import ThumbnailService

__all__ = [
    "Announced",
    "DirectUploadService",
    "DuplicatesService",
    "ImageReader",
    "IngestService",
    "LifecycleService",
    "SearchService",
    "ThumbnailService",
]
