"""Everything that must pass: ``python -m tests``. With arguments, which go to pytest: the tests that they name."""

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
PYTEST = [sys.executable, "-m", "pytest"]
TESTS = (
    ("pytest, two processes", [*PYTEST, "-m", "not alone", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]),
    ("pytest, alone", [*PYTEST, "-m", "alone"]),
)


def main() -> int:
    install_chromium()
    tests = [("pytest", [*PYTEST, *sys.argv[1:]])] if sys.argv[1:] else TESTS
    failed = []
    for name, command in (*CHECKS, *tests):
        started = time.monotonic()
        status = subprocess.run(command).returncode
        print(f"{name}: {'failed' if status else 'passed'} ({time.monotonic() - started:.1f} s)", flush=True)
        if status:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
