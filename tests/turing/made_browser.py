"""For the tests in a browser: which one, how it is opened, and a watch over what its pages load."""

import shutil

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if BROWSER is None:
    pytest.skip(
        "no browser: install chromium (apt-get install chromium) to test the pages in one", allow_module_level=True
    )
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")

OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
           "--disable-component-update", "--disable-sync"]  # fmt: skip
PHONE = {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}


def opened():
    """The browser, headless."""
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=OPTIONS)
        yield browser
        browser.close()


def watched(browser, server):
    """Opens tabs at an address of the server, in browser profiles of their own; watches what they load."""
    contexts, asked, faults = [], [], []

    def new(address="/", context=None, **options):
        if context is None:
            context = browser.new_context(**options)
            context.set_default_timeout(10_000)
            contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda said: faults.append(said.text) if "Content Security" in said.text else None)
        page.goto(server.address + address)
        return page

    yield new
    for context in contexts:
        assert context.cookies() == []
        context.close()
    elsewhere = [url for url in asked if not url.startswith((f"{server.address}/", "data:", "blob:"))]
    assert elsewhere == []
    assert asked
    assert faults == []
