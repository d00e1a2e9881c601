"""The report page in a real browser, headless: light and dark, on a desk and on a phone, by keys alone."""

import made_report as made
import pandas as pd
import pytest
from turing.made_browser import opened

from pipeline.core.files import write_text
from pipeline.project import report_pages

PROFILES = ("embedded", "laptop", "paper")
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}
LEAST = 4.5  # contrast of text, WCAG AA
# Text and the colour behind it, of every element that holds text of its own; colours as the browser computes them.
CONTRASTS = """() => {
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = (colour) => {
    const [r, g, b] = parts(colour).slice(0, 3).map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const colour = getComputedStyle(element).backgroundColor;
      if ((parts(colour)[3] ?? 1) > 0) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const found = new Map();
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.checkVisibility() || element.closest(".skip, script")) continue;
    const [front, back] = [getComputedStyle(element).color, behind(element)];
    const [high, low] = [light(front), light(back)].sort((a, b) => b - a);
    found.set(front + " on " + back, [(high + 0.05) / (low + 0.05), element.className || element.tagName]);
  }
  return [...found.entries()];
}"""


@pytest.fixture(scope="module")
def browser():
    yield from opened()


@pytest.fixture(scope="module")
def pages(root, tmp_path_factory):
    """Profile -> its page; ``all`` -> the profiles side by side."""
    folder = tmp_path_factory.mktemp("report pages")  # with a space in it
    for profile in PROFILES:
        write_text(folder / f"{profile}.html", made.committed(root, profile, folder / "runs"))
    (folder / "reports").symlink_to(root / "reports")
    return {profile: folder / f"{profile}.html" for profile in PROFILES} | {
        "all": folder / report_pages.write_all(folder)
    }


@pytest.fixture
def tab(browser):
    """Opens pages; nothing but the file itself may be asked for, and nothing may be refused or fail."""
    contexts, asked, faults = [], [], []

    def new(path, **options):
        context = browser.new_context(**options)
        contexts.append(context)

        def answer(route):
            asked.append(route.request.url)
            route.continue_() if route.request.url == path.as_uri() else route.abort()

        context.route("**/*", answer)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda said: faults.append(said.text))
        page.goto(path.as_uri())
        return page

    yield new
    for context in contexts:
        context.close()
    assert len(asked) == len(contexts), asked
    assert faults == []


def until(page, expression):
    """Waits until something holds. Playwright's own way evaluates text in the page, which its policy refuses."""
    for _ in range(100):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    pytest.fail(f"never: {expression}")


@pytest.mark.parametrize("name", [*PROFILES, "all"])
def test_all_pictures_are_shown_and_the_page_never_scrolls_sideways(tab, pages, name):
    for options in ({"viewport": {"width": 1440, "height": 900}}, PHONE):
        page = tab(pages[name], **options)
        page.evaluate("Promise.all([...document.images].map((image) => image.decode()))")
        pictures = page.evaluate("[...document.images].map((i) => [i.naturalWidth, i.width, i.dataset.picture])")
        assert pictures
        assert [picture for natural, shown, picture in pictures if natural == 0 or shown == 0] == []
        page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true })")
        wide, window = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert wide <= window == options["viewport"]["width"]


@pytest.mark.parametrize("profile", PROFILES)
def test_all_rows_can_be_read_on_a_phone(tab, pages, root, profile):
    page = tab(pages[profile], **PHONE)
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true })")
    for path in sorted((root / f"reports/{profile}/tables").glob("*.csv")):
        n_rows = len(pd.read_csv(path))
        rows = page.locator(f"table[data-table={path.stem}] tbody tr")
        assert rows.count() == n_rows
        if n_rows:  # cards: the numbers are on the screen, not beside it
            boxes = rows.evaluate_all("all => all.map((row) => row.getBoundingClientRect().right)")
            assert max(boxes) <= 390


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", [*PROFILES, "all"])
def test_every_text_can_be_read(tab, pages, name, scheme):
    page = tab(pages[name], color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true })")
    found = dict(page.evaluate(CONTRASTS))
    assert len(found) >= 4
    assert {pair: told for pair, told in found.items() if told[0] < LEAST} == {}
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (back == "rgb(255, 255, 255)") == (scheme == "light")


@pytest.mark.parametrize(("name", "greyed"), [("embedded", "tr.muted td.measured"), ("all", "td.muted")])
def test_embedded_numbers_are_grey(tab, pages, name, greyed):
    page = tab(pages[name])
    colours = "all => [...new Set(all.map((one) => getComputedStyle(one).color))]"
    (grey,) = page.locator(greyed).evaluate_all(colours)
    soft = page.locator("p.soft").first.evaluate("one => getComputedStyle(one).color")
    text = page.evaluate("getComputedStyle(document.body).color")
    assert grey == soft != text


def test_by_keys_alone(tab, pages):
    page = tab(pages["paper"])
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the numbers"
    assert page.evaluate("document.activeElement.getBoundingClientRect().left") > 0
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('main') !== null")
    page.locator("button.zoom").first.focus()
    outlined = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outlined == "solid"
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    dialog.wait_for()
    shown, natural = dialog.locator("img").evaluate("i => [i.width, i.naturalWidth]")
    assert shown >= natural > 0
    page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    assert page.evaluate("document.activeElement.classList.contains('zoom')"), "the focus is where it was"


def test_tables_that_are_too_wide_scroll_in_their_own_box_by_keys(tab, pages):
    page = tab(pages["embedded"], viewport={"width": 800, "height": 800})
    box = page.locator(".scroll", has=page.get_by_text("classifier_score_split_spread")).first
    assert box.evaluate("b => b.scrollWidth > b.clientWidth")
    box.focus()
    page.keyboard.press("ArrowRight")
    until(page, "document.activeElement.scrollLeft > 0")


def test_contents_lead_to_their_places(tab, pages):
    page = tab(pages["laptop"], **PHONE)
    contents = page.locator("nav details")
    assert contents.get_attribute("open") is None, "on a phone it would push the numbers away"
    contents.locator("summary").click()
    contents.get_by_role("link", name="Provenance").click()
    place = "document.getElementById('provenance').getBoundingClientRect()"
    until(page, f"{place}.top >= 0 && {place}.bottom <= innerHeight")
    assert contents.get_attribute("open") is None
    page = tab(pages["laptop"], viewport={"width": 1440, "height": 900})
    assert page.locator("nav").get_by_role("link", name="Provenance").is_visible()
    page.locator("nav").get_by_role("link", name="Provenance").click()
    until(page, "document.querySelector('nav [aria-current]')?.textContent === 'Provenance'")


def test_a_link_to_a_folded_table_opens_it(tab, pages):
    page = tab(pages["embedded"])
    folded = page.locator("#table_datasets > details")
    assert folded.get_attribute("open") is None
    page.locator("table.glance").get_by_role("link", name="Datasets").click()
    page.locator("#table_datasets > details[open]").wait_for()


def test_pictures_stand_still_for_those_who_asked_for_it(tab, pages):
    moving = "img[data-picture='figures/walk_dcgan_faces.webp']"
    shown = {}
    for motion in ("reduce", "no-preference"):
        page = tab(pages["embedded"], reduced_motion=motion)
        shown[motion] = page.locator(moving).evaluate("i => i.decode().then(() => i.currentSrc.slice(0, 16))")
    assert shown == {"reduce": "data:image/png;b", "no-preference": "data:image/webp;"}
