"""Hooks of `mkdocs.yml`: pages that are no files of `docs/`, and fences as the tests read them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ROOT: Final = Path(__file__).parent.parent
RULES: Final = ROOT / "ir" / "rules" / "pages"
_NAMED_FENCE: Final = re.compile(r"^( *```\w+) (\S+)$", re.MULTILINE)
_CODES: Final = """\
# Every code

Each finding has a code; `compile-plan --explain-code CODE` prints its page, `compile-plan --codes` the list.
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that stand elsewhere: the language beside its grammar, a code beside its rule."""
    for name, text in (
        ("language.md", _read(ROOT / "grammar" / "language.md")),
        ("changes.md", _read(ROOT / "CHANGELOG.md")),
        ("codes.md", "\n".join([_CODES, *(f"#{_read(page)}" for page in sorted(RULES.glob("*.md")))])),
    ):
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Lead links to where a page is in the site, and show the name of a file that a fence writes."""
    markdown = markdown.replace("](../grammar/language.md", "](language.md")
    return _NAMED_FENCE.sub(r'\1 title="\2"', markdown)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")
