"""The README's parts that are made or run: ``python -m tests.readme`` writes the settings table anew."""

import re
from pathlib import Path

from imgsim.settings import Settings, describe

README = Path(__file__).parents[1] / "README.md"
_TABLE = re.compile(r"(<!-- settings table[^>]*-->\n).*?(<!-- end of settings table -->)", re.DOTALL)


def settings_table() -> str:
    rows = ["| key | default | meaning |", "|---|---|---|"]
    rows += [f"| `{key}` | `{value}` | {about} |" for key, value, about in describe(Settings.model_construct())]
    return "\n".join(rows) + "\n"


def with_settings_table(text: str) -> str:
    return _TABLE.sub(lambda found: f"{found[1]}{settings_table()}{found[2]}", text)


def code_blocks(language: str, after: str) -> list[str]:
    """The blocks of `language` behind the line that holds `after`, up to the next heading of level 2."""
    section = README.read_text(encoding="utf-8").partition(after)[2].partition("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


if __name__ == "__main__":
    README.write_text(with_settings_table(README.read_text(encoding="utf-8")), encoding="utf-8")
