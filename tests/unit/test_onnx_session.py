"""What opening a model leaves behind."""

import os
import subprocess
import sys
from pathlib import Path

from imgsim.adapters.embedding.packaged import WEIGHTS


def test_the_model_keeps_nothing_in_the_home_of_its_user(tmp_path: Path) -> None:
    """ONNX Runtime would keep telemetry there, to send it."""
    code = "from imgsim.adapters.embedding.onnx_session import open_session as o; import sys; o(sys.argv[1])"
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    subprocess.run([sys.executable, "-c", code, str(WEIGHTS)], env=environment | {"HOME": str(tmp_path)}, check=True)
    assert not list(tmp_path.rglob("*"))
