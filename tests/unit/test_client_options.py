"""How the client finds its server and its key."""

import pytest

from imgsim.client import ClientError
from imgsim.client.connection import options


@pytest.mark.parametrize("keys", ['["key', '["a" "b"]'])
def test_a_broken_list_of_keys_in_the_environment_is_a_sentence(monkeypatch: pytest.MonkeyPatch, keys: str) -> None:
    monkeypatch.setenv("IMGSIM_AUTH__KEYS", keys)
    with pytest.raises(ClientError, match="IMGSIM_AUTH__KEYS"):
        options("http://localhost", None, 1.0)
