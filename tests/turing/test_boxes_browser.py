"""Drawing boxes in a real browser, headless: by mouse, by keys, by touch; what is saved, and what replaces nothing."""

import json

import pytest
from made_browser import PHONE, opened, watched
from made_desk import write_desk
from made_server import Server


@pytest.fixture(scope="module")
def browser():
    yield from opened()


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    with Server(write_desk(tmp_path_factory.mktemp("boxes")), "boxes", "draw", "embedded") as running:
        yield running


@pytest.fixture
def desk_tab(browser, desk):
    (desk.folder / "annotations/embedded/boxes.json").write_text("{}\n")
    yield from watched(browser, desk)


def saved(desk):
    return json.loads((desk.folder / "annotations/embedded/boxes.json").read_text())


def drag(page, place, start, end):
    """Corners in pixels of the sample."""
    box = page.locator(".sample").nth(place).bounding_box()
    scale = box["width"] / 64
    points = [(box["x"] + scale * x, box["y"] + scale * y) for x, y in (start, end)]
    page.mouse.move(*points[0])
    page.mouse.down()
    page.mouse.move(*points[1], steps=3)
    page.mouse.up()


def touch_drag(page, place, start, end):
    page.locator(".sample").nth(place).scroll_into_view_if_needed()
    box = page.locator(".sample").nth(place).bounding_box()
    scale = box["width"] / 64
    fingers = page.context.new_cdp_session(page)
    middle = tuple((a + b) / 2 for a, b in zip(start, end, strict=True))
    for kind, point in (("touchStart", start), ("touchMove", middle), ("touchMove", end), ("touchEnd", None)):
        points = [{"x": box["x"] + scale * point[0], "y": box["y"] + scale * point[1]}] if point else []
        fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        page.wait_for_timeout(100)  # a finger rests before it is lifted: else the browser takes it for a fling, and the
    page.wait_for_timeout(300)  # next tap for what stops it


def test_boxes_by_mouse_are_saved_and_come_back(desk_tab, desk):
    page = desk_tab()
    assert "save to annotations/embedded/boxes.json" in page.locator("#task").inner_text()
    drag(page, 1, (8, 10), (30, 40))
    drag(page, 3, (60, 60), (20, 30))  # backwards
    page.get_by_role("button", name="Save").click()
    page.get_by_text("enter a pseudonym of at most 20").wait_for()
    assert saved(desk) == {}
    page.get_by_label("Pseudonym").fill("a1")
    page.get_by_role("button", name="Save").click()
    page.get_by_text("Saved to annotations/embedded/boxes.json.").wait_for()
    first = saved(desk)
    assert (first["annotator"], first["n_images"]) == ("a1", 4)
    assert first["boxes"] == {"1": [[8, 10, 30, 40]], "3": [[20, 30, 60, 60]]}
    page.reload()
    assert page.locator(".box").count() == 2
    page.locator(".sample").nth(0).focus()
    page.keyboard.press("Enter")  # by keys
    page.get_by_role("button", name="Save").click()
    page.get_by_text("Saved to").wait_for()
    assert saved(desk)["boxes"] == {"0": [[16, 16, 48, 48]], **first["boxes"]}


def test_boxes_by_touch(desk_tab, desk):
    page = desk_tab(**PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    touch_drag(page, 2, (8, 8), (40, 24))
    assert page.locator(".sample").nth(2).locator(".box").count() == 1
    page.get_by_label("Pseudonym").fill("finger")
    page.get_by_role("button", name="Save").tap()
    page.get_by_text("Saved to").wait_for()
    ((index, ((x1, y1, x2, y2),)),) = saved(desk)["boxes"].items()
    assert index == "2"
    assert [x1, y1, x2, y2] == pytest.approx([8, 8, 40, 24], abs=1)


def test_boxes_of_an_older_page_replace_nothing(desk_tab, desk):
    first = desk_tab()
    second = desk_tab()
    for page, place in ((first, 0), (second, 1)):
        drag(page, place, (8, 8), (40, 24))
        page.get_by_label("Pseudonym").fill("a1")
        page.get_by_role("button", name="Save").click()
        page.get_by_text("Saved to" if page is first else "was changed since this page was opened").wait_for()
    assert list(saved(desk)["boxes"]) == ["0"]
    assert second.locator(".box").count() == 1  # what was drawn is still there, to be downloaded
    with second.expect_download() as caught:
        second.get_by_role("button", name="Download boxes.json").click()
    assert list(json.loads(caught.value.path().read_text())["boxes"]) == ["1"]


def test_boxes_survive_a_server_that_is_away(desk_tab, desk):
    page = desk_tab()
    page.get_by_label("Pseudonym").fill("a1")
    drag(page, 0, (8, 8), (40, 24))
    page.route("**/boxes", lambda route: route.abort())
    page.get_by_role("button", name="Save").click()
    page.get_by_text("The server cannot be reached").wait_for()
    page.unroute("**/boxes")
    page.get_by_role("button", name="Save").click()
    page.get_by_text("Saved to").wait_for()
    assert list(saved(desk)["boxes"]) == ["0"]


def test_boxes_whose_reply_was_lost_are_saved_again(desk_tab, desk):
    page = desk_tab()
    page.get_by_label("Pseudonym").fill("a1")
    drag(page, 0, (8, 8), (40, 24))

    def save_and_lose(route):
        route.fetch()
        route.abort()

    page.route("**/boxes", save_and_lose)
    page.get_by_role("button", name="Save").click()
    page.get_by_text("The server cannot be reached").wait_for()
    assert list(saved(desk)["boxes"]) == ["0"], "the server has it; the page does not know"
    page.unroute("**/boxes")
    drag(page, 1, (8, 8), (40, 24))
    page.get_by_role("button", name="Save").click()
    page.get_by_text("Saved to").wait_for()
    assert list(saved(desk)["boxes"]) == ["0", "1"]
