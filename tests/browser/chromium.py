"""The browser that the tests drive: Debian's Chromium, or whatever of its kind is on the PATH."""

import os
import shutil
import subprocess

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
]  # fmt: skip
INSTALL = "apt-get update && apt-get install -y --no-install-recommends chromium"
MISSING = f"There is no Chromium ({', '.join(NAMES)}). As root on Debian: {INSTALL}"


def chromium() -> str | None:
    """Its path, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def install_chromium() -> None:
    """Install it where it is missing, by root on Debian and its like; elsewhere the tests that need it are skipped."""
    if chromium() or os.name != "posix" or os.geteuid() != 0 or shutil.which("apt-get") is None:
        return
    print(f"Installing Chromium for the browser tests: {INSTALL}", flush=True)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["sh", "-c", INSTALL], env=environment, stdout=subprocess.DEVNULL, timeout=900, check=False)
