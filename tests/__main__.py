"""Everything that must pass: ``python -m tests``. Arguments go to pytest."""

import subprocess
import sys
import time
from pathlib import Path

from tests.browser.chromium import install_chromium

CHECKS = (
    ("ruff check", [sys.executable, "-m", "ruff", "check", "."]),
    ("ruff format", [sys.executable, "-m", "ruff", "format", "--check", "."]),
    ("mypy --strict", [sys.executable, "-m", "mypy"]),
    ("import-linter", [str(Path(sys.executable).with_name("lint-imports"))]),
)


def main() -> int:
    failed = []
    for name, command in CHECKS:
        started = time.monotonic()
        status = subprocess.run(command).returncode
        print(f"{name}: {'failed' if status else 'passed'} ({time.monotonic() - started:.1f} s)", flush=True)
        if status:
            failed.append(name)
    install_chromium()
    if subprocess.run([sys.executable, "-m", "pytest", *sys.argv[1:]]).returncode:
        failed.append("pytest")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
