"""``python -m imgsim``."""

from imgsim.cli import main

if __name__ == "__main__":
    main()
