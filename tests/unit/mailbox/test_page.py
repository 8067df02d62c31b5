"""The page's rules that need no server."""

from pathlib import Path

from infra.mailbox import page


def test_the_page_asks_the_network_for_nothing():
    folder = Path(page.__file__).parent
    for name in ("page.css", "page.js", "page.py"):
        text = (folder / name).read_text("utf-8")
        assert "http://" not in text
        assert "https://" not in text
        assert "@import" not in text


def test_style_and_script_cannot_end_their_elements():
    folder = Path(page.__file__).parent
    for name in ("page.css", "page.js"):
        assert "</" not in (folder / name).read_text("utf-8")
