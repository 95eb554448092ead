"""Every error that imgsim raises on purpose. Each has a stable ``code``, the ``type`` a client sees."""

from typing import ClassVar


class ImgsimError(Exception):
    """Something went wrong in imgsim."""

    code: ClassVar[str] = "internal"

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or type(self).__doc__)

    @property
    def message(self) -> str:
        return str(self)


class SettingsError(ImgsimError):
    """The settings cannot be used."""

    code = "settings"


class PluginError(ImgsimError):
    """A plugin, or the order of the stages, cannot be used."""

    code = "plugin"


class DataDirectoryInUse(ImgsimError):
    """Another process owns the data directory."""

    code = "data-directory-in-use"


class InvalidRequest(ImgsimError):
    """A value of the request cannot be used."""

    code = "invalid-request"


class Unauthorized(ImgsimError):
    """This needs an API key."""

    code = "unauthorized"


class Forbidden(ImgsimError):
    """This is not allowed."""

    code = "forbidden"


class ImageNotFound(ImgsimError):
    """No image has this id."""

    code = "image-not-found"


class ImportNotFound(ImgsimError):
    """No import has this id."""

    code = "import-not-found"


class GroupNotFound(ImgsimError):
    """No group of duplicates has this id: it was dismissed, or fewer than two of its images are left."""

    code = "group-not-found"


class ObjectNotFound(ImgsimError):
    """No object has this key."""

    code = "object-not-found"


class TooLarge(ImgsimError):
    """The upload has too many bytes."""

    code = "too-large"


class UnsupportedImage(ImgsimError):
    """These bytes are not an image of a format that is read here."""

    code = "unsupported-image"


class BrokenImage(ImgsimError):
    """The image cannot be decoded."""

    code = "broken-image"


class TooManyPixels(ImgsimError):
    """The image has too many pixels."""

    code = "too-many-pixels"


class FetchFailed(ImgsimError):
    """What is at the URL cannot be fetched."""

    code = "fetch-failed"


class NoPresignedUploads(ImgsimError):
    """This object store has no presigned uploads; use POST /images/upload."""

    code = "no-presigned-uploads"


class NotUploaded(ImgsimError):
    """Nothing was stored yet with the presigned request."""

    code = "not-uploaded"


class UploadMismatch(ImgsimError):
    """What was stored is not what was announced."""

    code = "upload-mismatch"


class NotSearchable(ImgsimError):
    """The image has no vector in the index (yet)."""

    code = "not-searchable"


class WrongState(ImgsimError):
    """The image is not in a state that allows this."""

    code = "wrong-state"


class TextNotSupported(ImgsimError):
    """The model cannot embed text."""

    code = "text-not-supported"


class ModelError(ImgsimError):
    """The embedding model cannot be loaded."""

    code = "model"


class EmbeddingFailed(ImgsimError):
    """The model gave no usable embedding for this image."""

    code = "embedding-failed"


class VectorRefused(ImgsimError):
    """A vector has the wrong dimensions or a value that is not finite."""

    code = "vector-refused"


class Unavailable(ImgsimError):
    """A part that this needs cannot be reached now."""

    code = "unavailable"

    def __init__(self, message: str | None = None, retry_after: float = 5.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds after which to try again."""


class Overloaded(Unavailable):
    """Too much work is waiting."""

    code = "overloaded"


class LeaseLost(ImgsimError):
    """The claim on this image is no longer ours: another attempt, a retry or a delete came in between."""

    code = "lease-lost"


class ImageRejected(ImgsimError):
    """A stage refuses the image: it ends ``done``, not searchable, with the reason."""

    code = "rejected"


class RetryLater(ImgsimError):
    """A stage asks to be run again later; the attempt does not count as failed."""

    code = "retry-later"

    def __init__(self, message: str | None = None, seconds: float = 30.0) -> None:
        super().__init__(message)
        self.seconds = seconds
