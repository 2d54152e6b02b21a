"""The page to chat, as a person sees it: in a real browser, on the real server, with a real engine behind."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.mnn.runner import Engine
from tests.mnn.conftest import model, product
from tests.use.server.browser import Page, chromium
from tests.use.test_serve import serving

__all__ = ["model", "product"]

COMMAND = chromium()
pytestmark = pytest.mark.skipif(COMMAND is None, reason="there is no Chromium on this machine (apt install chromium)")
LONGEST = 460
LAST = "document.querySelector('.assistant:last-of-type')"


@pytest.fixture(scope="module")
def server(product: Path) -> Iterator[str]:
    """Greedy answers of LONGEST tokens, which no stop token ends: long enough to be stopped on their way."""
    keys = {"sampler_type": "mixed", "mixed_samplers": ["greedy"], "banned_tokens": [257], "max_new_tokens": LONGEST}
    options = [word for name, value in keys.items() for word in ("--set", f"{name}={_text(value)}")]
    with serving(product, *options) as (url, _):
        yield url


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    tab = Page(COMMAND or "", tmp_path_factory.mktemp("browser") / "profile")
    yield tab
    tab.close()


@pytest.fixture
def page(browser: Page, server: str) -> Iterator[Page]:
    browser.open("about:blank")
    browser.open(server)
    yield browser
    assert browser.exceptions == []


@pytest.fixture(scope="module")
def expected(product: Path) -> str:
    """The whole answer to "Hi", by the engine's own loop."""
    with Engine(product, {"sampler_type": "mixed", "mixed_samplers": ["greedy"], "banned_tokens": [257]}) as engine:
        ids = engine.tokenize(engine.apply_template([{"role": "user", "content": "Hi"}]))
        return engine.detokenize(engine.generate(ids, LONGEST))


def test_an_answer_appears_piece_by_piece(page: Page, expected: str) -> None:
    assert page.run("document.title") == "Chat"
    page.run("window.lengths = new Set()")
    page.run(f"new MutationObserver(() => lengths.add({LAST}?.textContent.length)).observe(log, "
             "{childList: true, subtree: true, characterData: true})")  # fmt: skip
    page.type("#text", "Hi")
    page.press_enter()
    page.wait(f"{LAST}?.dataset.done === 'true'", 60)
    assert page.run("document.querySelector('.user').textContent") == "Hi"
    assert page.run("lengths.size") > 20
    assert page.run(f"{LAST}.textContent")[:40] == expected[:40]
    assert page.run("document.activeElement.id") == "text"


def test_stop_ends_the_answer_and_the_conversation_goes_on(page: Page, expected: str) -> None:
    page.type("#text", "Hi")
    page.click("#send")
    page.wait(f"{LAST}?.textContent.length > 5")
    assert page.run("document.querySelector('#send').disabled") is True
    page.click("#stop")
    page.wait(f"{LAST}.dataset.done === 'true'")
    stopped = page.run(f"{LAST}.textContent")
    assert 5 < len(stopped) < len(expected) - 100
    assert expected.startswith(stopped[:40])
    assert page.run("document.querySelector('#stop').disabled") is True
    page.type("#text", "More")
    page.click("#send")
    page.wait("document.querySelectorAll('.assistant').length === 2")
    page.wait("document.querySelectorAll('.assistant')[1].textContent.length > 5")
    assert page.run("document.querySelectorAll('.error').length") == 0
    assert page.run("messages.map(message => message.role).join()") == "user,assistant,user"
    assert page.run("document.querySelectorAll('.assistant')[0].textContent") == stopped
    page.click("#stop")


def test_an_error_of_the_server_is_shown(page: Page) -> None:
    page.type("#text", "x" * 600)
    page.click("#send")
    page.wait("document.querySelectorAll('.error').length === 1")
    assert "512 positions" in page.run("document.querySelector('.error').textContent")
    assert page.run("document.querySelector('#send').disabled") is False
    assert page.run("messages.length") == 0


def test_a_server_that_wants_a_token_gets_it_from_the_page(browser: Page, product: Path) -> None:
    with serving(product, "--max-new-tokens", "8", token="s3cret") as (url, _):
        browser.open(url)
        assert browser.run("document.querySelector('#token').hidden") is True
        browser.type("#text", "Hi")
        browser.click("#send")
        browser.wait("document.querySelectorAll('.error').length === 1")
        assert "bearer token" in browser.run("document.querySelector('.error').textContent")
        browser.type("#token", "s3cret")
        browser.type("#text", "Hi again")
        browser.click("#send")
        browser.wait(f"{LAST}?.dataset.done === 'true' && {LAST}.textContent.length > 0")
        assert browser.run("document.querySelectorAll('.error').length") == 1


def test_the_page_loads_nothing_from_elsewhere(page: Page, server: str) -> None:
    assert (
        page.run("performance.getEntriesByType('resource').filter(one => !one.name.startsWith(location.origin))") == []
    )
    assert page.run("document.querySelectorAll('script[src], link[href], img').length") == 0
    with urllib.request.urlopen(server, timeout=10) as reply:
        assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
