"""A user of a real server, who survives its restarts."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.faults.waiting import wait_until
from tests.processes import ImgsimServer, wait_until_at_rest

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload that was answered 202."""

    id: str
    filename: str
    collection: str
    data: bytes


class User:
    def __init__(self, server: ImgsimServer) -> None:
        self._server = server
        self._client: httpx.Client | None = None

    @property
    def http(self) -> httpx.Client:
        """A client of the server that runs now, which may listen elsewhere than the one before."""
        if self._client is None or self._client.base_url != self._server.url:
            self._client = self._server.client(verify=False)  # there are no certificates to load
        return self._client

    def upload(self, photo: Path, filename: str | None = None, collection: str = "default") -> Upload:
        """Upload `photo`; it must be new."""
        name, data = filename or photo.name, photo.read_bytes()
        answer = self.http.post("/images/upload", files={"file": (name, data)}, data={"collection": collection})
        assert answer.status_code == 202, answer.text
        return Upload(answer.json()["id"], name, collection, data)

    def image(self, upload: Upload) -> Json:
        image: Json = self.http.get(f"/images/{upload.id}").raise_for_status().json()
        return image

    def wait_for_state(self, upload: Upload, state: str) -> None:
        wait_until(lambda: self.image(upload)["state"] == state, f"{upload.filename} is {state}")

    def wait_until_at_rest(self, upload: Upload) -> Json:
        return wait_until_at_rest(self.http, upload.id)

    def vectors(self) -> int:
        """How many vectors the index holds."""
        return int(self.figure(r"imgsim_vectors\{.*\}"))

    def figure(self, pattern: str) -> float:
        metrics = self.http.get("/metrics").raise_for_status().text
        return sum(float(value) for value in re.findall(rf"^{pattern} (\S+)$", metrics, re.MULTILINE))

    def hits(self, upload: Upload) -> list[str]:
        """The ids of the images in the upload's collection that look exactly like it."""
        answer = self.http.post(
            "/search", files={"file": upload.data}, data={"collection": upload.collection, "min_score": "0.999"}
        )
        return [hit["image"]["id"] for hit in answer.raise_for_status().json()["results"]]

    def assert_done_once(self, upload: Upload) -> None:
        """It comes to rest in ``done``, search finds it exactly once, and its bytes are those that were sent."""
        image = self.wait_until_at_rest(upload)
        assert image["state"] == "done", image
        assert self.hits(upload) == [upload.id]
        assert (
            self.http.get(f"/images/{upload.id}/file", follow_redirects=True).raise_for_status().content == upload.data
        )

    def assert_invisible(self, upload: Upload) -> None:
        """No way of asking shows the deleted image."""
        for path in ("", "/file", "/similar", "/events"):
            assert self.http.get(f"/images/{upload.id}{path}").status_code == 404
        listed = self.http.get("/images", params={"collection": upload.collection, "limit": 100}).json()["images"]
        assert upload.id not in [image["id"] for image in listed]
        assert upload.id not in self.hits(upload)
