"""What goes wrong, as the client raises it."""

from collections.abc import Iterator
from functools import cache

import httpx
import msgspec

from imgsim.core.errors import ImgsimError, Unavailable

_URN = "urn:imgsim:error:"
_NO_ANSWER_NOW = (429, 502, 503, 504)


class ClientError(ImgsimError):
    """The server refused a request, or gave no answer.

    What is raised is also of the class in ``imgsim.core.errors`` that has the problem's type: for an unknown id
    ``except ClientError`` and ``except ImageNotFound`` both catch it.
    """

    def __init__(self, detail: str, *, type: str = "about:blank", title: str = "", status: int | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        """What is wrong with this request, a sentence."""
        self.type = type
        """Stable, as in ``urn:imgsim:error:image-not-found``; ``about:blank`` where the server named none."""
        self.title = title
        self.status = status
        """The HTTP status; None where there was no answer."""


class NotFinished(ClientError, TimeoutError):
    """The image is still worked on; it can be waited for again."""


class _Problem(msgspec.Struct):
    """RFC 9457; all of it may be missing."""

    type: str = "about:blank"
    title: str = ""
    detail: str = ""


def refusal(response: httpx.Response) -> ClientError:
    """The error that the answer `response`, read to its end, stands for."""
    try:
        problem = msgspec.json.decode(response.content, type=_Problem)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        problem = _Problem()
    detail = problem.detail or f"The server answered {response.status_code}."
    code = problem.type.removeprefix(_URN) if problem.type.startswith(_URN) else ""
    if not code and response.status_code in _NO_ANSWER_NOW:  # from a proxy before it
        code = Unavailable.code
    return _of_code(code)(detail, type=problem.type, title=problem.title, status=response.status_code)


def no_answer(url: httpx.URL | str, error: Exception) -> ClientError:
    reason = str(error) or type(error).__name__
    return _of_code(Unavailable.code)(f"The server at {url} gave no answer: {reason}.")


def local_error(kind: type[ImgsimError], detail: str, status: int | None = None) -> ClientError:
    """What the client itself finds."""
    return _of_code(kind.code)(detail, type=_URN + kind.code, status=status)


@cache
def _of_code(code: str) -> type[ClientError]:
    """``ClientError``, and the error with that `code` as well, where there is one."""
    kind = next((each for each in _below(ImgsimError) if each.code == code and each is not ClientError), None)
    return type(kind.__name__, (ClientError, kind), {"__doc__": kind.__doc__}) if kind else ClientError


def _below(kind: type[ImgsimError]) -> Iterator[type[ImgsimError]]:
    for child in kind.__subclasses__():
        if not issubclass(child, ClientError):
            yield child
            yield from _below(child)
