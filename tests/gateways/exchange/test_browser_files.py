"""What the gateway serves to browsers by itself: four files, strict headers, nothing from elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

import aiohttp
import pytest
from exchange_rest_lab import rest

import sojourn.gateways.exchange.browser as package
from sojourn.gateways.exchange.browser import FILES, POLICY, browser_file, browser_routes
from sojourn.gateways.exchange.messages import CLOSE_CODES

FOLDER = Path(package.__file__).parent


@pytest.mark.parametrize("path", FILES)
def test_each_file_is_served_with_its_hash_and_a_strict_policy(run, path):
    """Behind the same front as the API; a browser that has it already gets 304."""

    async def story():
        async with rest(more=browser_routes()) as lab, aiohttp.ClientSession() as browser:
            async with browser.get(lab.url + path) as answer:
                content = await answer.read()
                assert (answer.status, answer.content_type) == (200, FILES[path][1])
                assert content == (FOLDER / FILES[path][0]).read_bytes()
                headers = answer.headers
            assert headers["Content-Security-Policy"] == POLICY
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Cache-Control"] == "no-cache"
            known = {"If-None-Match": f'"other", {headers["ETag"]}'}
            async with browser.get(lab.url + path, headers=known) as answer:
                assert (answer.status, await answer.read()) == (304, b"")
            async with browser.get(lab.url + path, headers={"If-None-Match": '"other"'}) as answer:
                assert answer.status == 200

    run(story())


def test_pages_are_made_of_nothing_but_these_files():
    """No script or style inside the page, no address of anybody else: the policy would refuse it, and rightly."""
    page = browser_file("/").content.decode()
    assert re.findall(r"<(?:style|script)[^>]*>\s*[^<\s]", page) == []
    assert re.findall(r"\s(?:on\w+|style)=", page) == []
    assert set(re.findall(r'(?:src|href)="([^"]*)"', page)) == {"data:,", "/v1/desk.css", "/v1/desk.js"}
    for path in FILES:
        text = browser_file(path).content.decode()
        assert re.findall(r"https?://(?!127\.0\.0\.1)[\w.]+", text) == [], path
        assert "innerHTML" not in text
        assert "eval(" not in text


def test_the_client_knows_the_published_table_of_close_codes():
    """The same numbers, names and answers to "may I come back?" as the server's; Chromium checks it again."""
    script = browser_file("/v1/sojourn.js").content.decode()
    table = re.findall(r"(\d{4}): \{ name: \"(\w+)\", comesBack: (true|false) \}", script)
    assert table == [(str(row.code), row.name, str(row.comes_back).lower()) for row in CLOSE_CODES]
