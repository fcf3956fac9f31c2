"""The documentation as a site: builds strictly, every link leads somewhere, nothing comes over a network."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from compile_plan.ir import RULES

ROOT = Path(__file__).parent.parent
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
NOT_LOADED = {"canonical", "next", "prev", "alternate"}


class Page(HTMLParser):
    """The links, ids and texts of one page."""

    def __init__(self, path):
        super().__init__()
        self.links, self.loaded, self.ids, self.text, self.blocks = [], [], set(), "", 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        said = dict(attrs)
        self.ids.add(said.get("id"))
        self.blocks += tag == "pre"
        if tag == "a" and said.get("href"):
            self.links.append(said["href"])
        if LOADED.get(tag) in said and said.get("rel") not in NOT_LOADED:
            self.loaded.append(said[LOADED[tag]])

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("material", reason="the site is built with the extra `docs`")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def pages(site):
    return {name: Page(path) for name, path in site.items() if name.endswith(".html") and name != "404.html"}


def test_every_document_is_a_page(pages):
    written = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert {f"{name}.html" for name in written | {"language", "changes", "codes"}} == set(pages)


def test_every_link_of_every_page_leads_somewhere(site, pages):
    for name, page in pages.items():
        for link in [*page.links, *page.loaded]:
            to = urlsplit(link)
            if to.scheme:
                continue
            target = (Path(name).parent / unquote(to.path)).as_posix() if to.path else name
            target = re.sub(r"[^/]+/\.\./", "", target)
            target = "index.html" if target == "." else target
            assert target in site, f"{name} leads to {link}"
            if to.fragment and target in pages:
                assert to.fragment in pages[target].ids, f"{name} leads to {link}"


def test_nothing_of_the_site_comes_over_a_network(site, pages):
    for name, page in pages.items():
        assert [link for link in page.loaded if urlsplit(link).netloc] == [], name
    for name in (name for name in site if name.endswith(".css")):
        style = site[name].read_text(encoding="utf-8")
        assert re.findall(r"(?:@import|url\()\s*[\"']?(?:https?:)?//[^)]*", style) == [], name


def test_the_page_of_codes_has_every_code(pages):
    assert set(RULES) <= pages["codes.html"].ids


def test_no_markup_is_left_on_a_page(pages):
    for name, page in pages.items():
        assert "```" not in page.text, name
        assert "](" not in page.text.replace("](*", ""), name


def test_every_fence_is_a_block_of_code(pages):
    for path in (ROOT / "docs").glob("*.md"):
        fences = len(re.findall(r"^ *```", path.read_text(encoding="utf-8"), re.MULTILINE)) // 2
        assert pages[f"{path.stem}.html"].blocks >= fences, path.name  # indented ones are blocks too
