"""The page for picking faces in a real browser, headless, on small screens: its tools leave room for faces."""

from pathlib import Path

import numpy as np
import pytest
from made_browser import opened

from pipeline.internals import annotation_page
from pipeline.internals.annotation_page import Deck

N_FACES = 60


@pytest.fixture(scope="module")
def browser():
    yield from opened()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    images = np.random.default_rng(0).integers(0, 256, (N_FACES, 64, 64, 3), dtype=np.uint8)
    deck = Deck(images=images, shown=range(N_FACES), n_images=N_FACES, network="0" * 64)
    file = tmp_path_factory.mktemp("faces") / "faces.html"
    place = Path("annotations/embedded/exemplars.json")
    file.write_text(annotation_page.page("faces", deck, place=place, annotated=None), encoding="utf-8")
    return file.as_uri()


@pytest.mark.parametrize("size", [(844, 390), (640, 400), (390, 844), (360, 740), (1280, 800)], ids=str)
def test_there_is_room_for_faces_beside_the_tools(browser, address, size):
    """A phone in either position, a laptop, and the laptop's page at 200 %."""
    width, height = size
    context = browser.new_context(viewport={"width": width, "height": height})
    page = context.new_page()
    page.goto(address)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for number in (0, N_FACES - 1):
        page.locator(".sample").nth(number).focus()
        face, tools = (page.locator(name).bounding_box() for name in (f".sample >> nth={number}", "#tools"))
        assert tools["height"] <= 0.5 * height
        assert max(tools["y"] + tools["height"], 0) <= face["y"], "the tools do not cover the face"
        assert face["y"] + face["height"] <= height, "the face with the focus is seen whole"
    page.keyboard.press("Enter")
    assert page.locator(".sample.picked").count() == 1
    page.get_by_role("button", name="Download").focus()
    button = page.get_by_role("button", name="Download").bounding_box()
    assert 0 <= button["y"] <= height - button["height"], "it is within reach"
    context.close()
