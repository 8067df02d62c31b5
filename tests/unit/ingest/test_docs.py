"""The readable page: complete in itself, and found by every problem document."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ingest.docs import render
from ingest.problems import KINDS


class Reader(HTMLParser):
    """Collects what a page names, and whether its tags are balanced."""

    def __init__(self):
        super().__init__()
        self.ids, self.links, self.loads, self.open = set(), set(), [], []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if "id" in found:
            assert found["id"] not in self.ids, found["id"]
            self.ids.add(found["id"])
        self.links.add(found.get("href"))
        self.loads += [name for name in found if name in {"src", "srcset", "style"} or name.startswith("on")]
        if tag not in {"meta", "link", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def rendered():
    return render((Path(__file__).parents[3] / "openapi.yaml").read_text())


@pytest.fixture(scope="module")
def reader(rendered):
    found = Reader()
    found.feed(rendered[0].decode())
    found.close()
    return found


def test_the_page_is_well_formed(reader):
    assert reader.open == []


def test_it_loads_nothing(reader):
    assert reader.loads == []
    assert "script" not in reader.ids


def test_every_link_inside_it_leads_somewhere(reader):
    inside = {link[1:] for link in reader.links if link and link.startswith("#")}
    assert inside <= reader.ids


def test_every_problem_is_explained(reader):
    assert KINDS.keys() <= reader.ids


def test_its_policy_allows_its_own_style_and_nothing_else(rendered):
    page, policy = rendered
    style = re.search(r"<style>(.*?)</style>", page.decode(), re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}';")
