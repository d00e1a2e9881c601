"""The page of the visual Turing test in a real browser, headless: by mouse, by keys alone, by touch."""

import pytest
from made_browser import PHONE, opened, watched
from made_server import Server, lines, write_deck, write_project

IMAGES = 9


@pytest.fixture(scope="module")
def browser():
    yield from opened()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = write_project(tmp_path_factory.mktemp("turing"))
    write_deck(folder / "data/embedded/turing_deck", name="photos", channels=3, seed=3, title="Photographs")
    with Server(folder, "turing", "serve", "embedded") as running:
        yield running


@pytest.fixture
def tab(browser, server):
    yield from watched(browser, server)


def play(annotator, mode="plain", deck="mnist"):
    return f"/play?deck={deck}&mode={mode}&annotator={annotator}"


def votes_of(server, annotator):
    path = server.folder / "annotations/embedded/votes.jsonl"
    return [vote for vote in lines(path) if vote["annotator"] == annotator]


def marked(page):
    return page.locator(".image").evaluate_all("all => all.map((i) => i.getAttribute('aria-pressed') === 'true')")


def on_screen(page, number):
    page.locator(f"#screen[data-number='{number - 1}']").wait_for()


def focused(page):
    """Label or text of what has the focus, and whether one sees that it has."""
    return page.evaluate("""() => {
      const it = document.activeElement, style = getComputedStyle(it);
      const name = it.getAttribute("aria-label") ?? it.labels?.[0]?.textContent.trim() ?? it.textContent.trim();
      const outlined = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
      return [name, it.matches(":focus-visible") && outlined];
    }""")


def test_whole_flow_by_mouse(tab, server):
    page = tab()
    page.get_by_label("Your pseudonym").fill("mouse")
    page.get_by_text("Digits &").click()
    page.get_by_text("Without").click()
    page.get_by_role("button", name="Start").click()
    for place in (0, 4, 8, 4):  # the last click takes a mark back
        page.locator(".image").nth(place).click()
    assert marked(page) == [place in (0, 8) for place in range(IMAGES)]
    assert page.get_by_role("button", name="Image 9 of 9, marked as generated", pressed=True).is_visible()
    assert page.get_by_role("button", name="Image 5 of 9", exact=True, pressed=False).is_visible()
    assert page.locator("#status").inner_text() == "2 marked"
    page.get_by_role("button", name="Submit").click()
    on_screen(page, 2)
    assert marked(page) == [False] * IMAGES
    votes = votes_of(server, "mouse")
    assert [vote["answer"] for vote in votes] == [place in (0, 8) for place in range(IMAGES)]
    assert {(vote["screen"], vote["mode"], vote["deck_name"], vote["simulated"]) for vote in votes} == {
        (0, "plain", "mnist", False)
    }
    assert 0 < votes[0]["seconds"] < 60
    page.get_by_role("link", name="Stop").click()
    assert page.get_by_label("Your pseudonym").input_value() == "mouse"


def test_pictures_are_sharp_and_of_one_size(tab):
    for deck in ("mnist", "photos"):
        page = tab(play("looks", deck=deck))
        page.wait_for_load_state("load")
        sizes = page.locator(".image img").evaluate_all(
            "all => all.map((i) => [i.naturalWidth, i.naturalHeight, i.clientWidth, i.clientHeight,"
            " getComputedStyle(i).imageRendering, i.alt])"
        )
        assert len(sizes) == IMAGES
        assert sizes == [sizes[0]] * IMAGES
        assert sizes[0][:2] == [8, 8]
        assert sizes[0][2] == sizes[0][3] > 100
        assert sizes[0][4:] == ["pixelated", ""]


def test_whole_flow_by_keys_alone(tab, server):
    page = tab()
    keys = page.keyboard
    keys.press("Tab")
    assert focused(page) == ["Your pseudonym", True]
    keys.type("keys")
    keys.press("Tab")
    keys.press("ArrowUp")  # whichever deck, then back
    keys.press("ArrowDown")
    keys.press("Tab")
    keys.press("ArrowDown")
    name, seen = focused(page)
    assert name.startswith("With: after each screen")
    assert seen
    keys.press("Enter")
    on_screen(page, 1)
    page.locator(".image:focus").wait_for()
    assert focused(page)[0] == "Image 1 of 9"
    keys.press("Space")
    keys.press("ArrowRight")
    assert focused(page) == ["Image 2 of 9", True]
    keys.press("ArrowDown")
    keys.press("Space")
    keys.press("ArrowDown")
    keys.press("ArrowDown")  # there is no fourth row
    keys.press("ArrowRight")
    keys.press("ArrowRight")  # nor a fourth column
    assert focused(page) == ["Image 9 of 9", True]
    keys.press("3")
    keys.press("Enter")
    page.wait_for_selector(".judged")
    assert [vote["answer"] for vote in votes_of(server, "keys")] == [place in (0, 2, 4) for place in range(IMAGES)]
    page.locator("button:focus", has_text="Next screen").wait_for()
    assert focused(page) == ["Next screen", True]
    keys.press("2")  # too late
    assert [vote["answer"] for vote in votes_of(server, "keys")] == marked(page)
    keys.press("Enter")
    on_screen(page, 2)
    page.locator(".image:focus").wait_for()  # the page puts it there once the screen is drawn
    keys.press("Tab")
    assert focused(page) == ["Image 2 of 9", True]
    assert len(votes_of(server, "keys")) == IMAGES


def test_whole_flow_on_a_phone(tab, server):
    page = tab(**PHONE)
    page.get_by_label("Your pseudonym").fill("phone")
    page.get_by_text("With: after each screen").tap()
    page.get_by_role("button", name="Start").tap()
    on_screen(page, 1)
    sizes = page.locator("button, a").evaluate_all("all => all.map((i) => [i.offsetWidth, i.offsetHeight])")
    assert min(size for pair in sizes for size in pair) >= 44
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    for place in (1, 3):
        page.locator(".image").nth(place).tap()
    page.get_by_role("button", name="Submit").tap()
    page.wait_for_selector(".judged")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert [vote["answer"] for vote in votes_of(server, "phone")] == [place in (1, 3) for place in range(IMAGES)]
    page.get_by_role("button", name="Next screen").tap()
    on_screen(page, 2)


def test_feedback_shows_mistakes_in_words_and_outlines(tab, server):
    page = tab(play("feedback", "feedback"))
    right = 0
    for number in (1, 2):
        on_screen(page, number)
        for place in (0, 1, 2):
            page.locator(".image").nth(place).click()
        page.get_by_role("button", name="Submit").click()
        page.wait_for_selector(".judged")
        votes = votes_of(server, "feedback")[-IMAGES:]
        mistakes = [vote["truth"] != vote["answer"] for vote in votes]
        kinds = ["generated" if vote["truth"] else "real" for vote in votes]
        right += mistakes.count(False)
        styles = page.locator(".image").evaluate_all("all => all.map((i) => getComputedStyle(i).outlineStyle)")
        assert [style == "dashed" for style in styles] == mistakes
        captions = page.locator(".caption").all_inner_texts()
        assert captions == [f"{'✗' if wrong else '✓'} {kind}" for wrong, kind in zip(mistakes, kinds, strict=True)]
        labels = page.locator(".image").evaluate_all("all => all.map((i) => i.getAttribute('aria-label'))")
        assert [", mistake: it is " in label for label in labels] == mistakes
        assert all(kind in label for kind, label in zip(kinds, labels, strict=True))
        said = page.locator("#status").inner_text()
        assert said.startswith(f"{mistakes.count(False)} of 9 right. Mistakes: ")
        assert f"So far {right} of {9 * number} right ({round(100 * right / 9 / number)}\u00a0%)." in said
        page.get_by_role("button", name="Next screen").click()
    assert page.locator("#status").get_attribute("role") == "status"


def test_without_feedback_nothing_is_told(tab, server):
    page = tab(play("silent"))
    said = []

    def listen(route):
        response = route.fetch()
        said.append(response.json())
        route.fulfill(response=response)

    page.route("**/answers", listen)
    page.locator(".image").nth(0).click()
    page.keyboard.press("Enter")
    on_screen(page, 2)
    assert said == [{"first": True, "differs": False}]
    assert page.locator(".judged, .mistake").count() == 0
    assert "right" not in page.locator("#status").inner_text()


def test_nothing_marked_is_asked_about(tab, server):
    page = tab(play("none"))
    page.keyboard.press("Enter")
    assert "You marked no image" in page.get_by_role("alert").inner_text()
    assert votes_of(server, "none") == []
    page.keyboard.press("Enter")
    on_screen(page, 2)
    assert [vote["answer"] for vote in votes_of(server, "none")] == [False] * IMAGES


def test_reload_in_the_middle_keeps_the_marks(tab, server):
    page = tab(play("reload"))
    before = page.locator("img").evaluate_all("all => all.map((i) => i.src)")
    for place in (2, 3):
        page.locator(".image").nth(place).click()
    page.reload()
    assert marked(page) == [place in (2, 3) for place in range(IMAGES)]
    assert page.locator("img").evaluate_all("all => all.map((i) => i.src)") == before
    page.keyboard.press("Enter")
    on_screen(page, 2)
    assert marked(page) == [False] * IMAGES
    page.reload()
    on_screen(page, 2)
    assert [vote["answer"] for vote in votes_of(server, "reload")] == [place in (2, 3) for place in range(IMAGES)]


def test_server_is_killed_and_started_again(tab, server):
    page = tab(play("restart", "feedback"))
    page.locator(".image").nth(5).click()
    server.kill()
    page.get_by_role("button", name="Submit").click()
    fault = page.locator("#fault")
    fault.get_by_text("cannot be reached").wait_for()
    assert "Your answers are kept" in fault.inner_text()
    assert marked(page) == [place == 5 for place in range(IMAGES)]
    server.start()
    page.get_by_role("button", name="Send again").click()
    page.wait_for_selector(".judged")
    assert fault.inner_text() == ""
    assert [vote["answer"] for vote in votes_of(server, "restart")] == [place == 5 for place in range(IMAGES)]
    page.keyboard.press("Enter")
    on_screen(page, 2)


def test_a_screen_whose_images_are_not_all_there_is_not_sent(tab, server):
    page = tab()
    page.route("**/images/**", lambda route: route.abort())
    page.goto(server.address + play("blind"))
    page.locator(".image").nth(4).click()
    page.keyboard.press("Enter")
    fault = page.get_by_role("alert")
    fault.get_by_text("Not all images could be loaded").wait_for()
    assert votes_of(server, "blind") == []
    page.unroute("**/images/**")
    fault.get_by_role("link", name="Go on").click()
    page.locator("#fault:empty").wait_for(state="attached")
    assert marked(page) == [place == 4 for place in range(IMAGES)]
    page.keyboard.press("Enter")
    on_screen(page, 2)
    assert [vote["answer"] for vote in votes_of(server, "blind")] == [place == 4 for place in range(IMAGES)]


def test_a_server_that_hangs_is_told(tab, server):
    page = tab(play("hang"))
    page.add_init_script(
        "const real = AbortSignal.timeout; AbortSignal.timeout = (ms) => real.call(AbortSignal, ms / 100)"
    )
    page.reload()
    page.route("**/answers", lambda route: None)  # never answered
    page.locator(".image").nth(0).click()
    page.keyboard.press("Enter")
    page.locator("#fault").get_by_text("cannot be reached").wait_for()
    page.unroute("**/answers")
    page.get_by_role("button", name="Send again").click()
    on_screen(page, 2)
    assert [vote["answer"] for vote in votes_of(server, "hang")] == [place == 0 for place in range(IMAGES)]


def test_full_disk_is_told_and_can_be_sent_again(tab, server):
    page = tab(play("full"))
    sentence = "Your answers could not be saved: no space."
    page.route("**/answers", lambda route: route.fulfill(status=507, json={"error": sentence}))
    page.locator(".image").nth(0).click()
    page.keyboard.press("Enter")
    page.get_by_text(sentence).wait_for()
    assert "Your answers are kept" in page.get_by_role("alert").inner_text()
    page.reload()  # even that loses nothing
    assert marked(page) == [place == 0 for place in range(IMAGES)]
    page.unroute("**/answers")
    page.keyboard.press("Enter")
    on_screen(page, 2)
    assert len(votes_of(server, "full")) == IMAGES


def test_other_deck_is_told_with_a_way_on(tab, server):
    page = tab(play("stale"))
    page.locator("#screen").evaluate("form => { form.dataset.sha256 = '0'.repeat(64); }")
    page.locator(".image").nth(0).click()
    page.keyboard.press("Enter")
    fault = page.get_by_role("alert")
    fault.get_by_text("was replaced since").wait_for()
    fault.get_by_role("link", name="Go on").click()
    on_screen(page, 1)
    assert votes_of(server, "stale") == []


def test_second_tab_is_told_that_the_first_counts(tab, server):
    first = tab(play("tabs"))
    second = tab(play("tabs"), context=first.context)
    first.locator(".image").nth(0).click()
    first.keyboard.press("Enter")
    on_screen(first, 2)
    second.locator(".image").nth(1).click()
    second.keyboard.press("Enter")
    second.get_by_text("the first answers count").wait_for()
    assert [vote["answer"] for vote in votes_of(server, "tabs")] == [place == 0 for place in range(IMAGES)]
    second.get_by_role("button", name="Next screen").click()
    on_screen(second, 2)


def test_start_page_remembers_the_pseudonym_and_says_faults(tab):
    page = tab("/play?deck=mnist&mode=plain&annotator=Jane%20Doe")
    assert "Enter a pseudonym" in page.get_by_role("alert").inner_text()
    field = page.get_by_label("Your pseudonym")
    described = field.get_attribute("aria-describedby").split()
    assert all(page.locator(f"#{name}").count() == 1 for name in described)
    assert "fault" in described
    field.fill("a 1")
    page.get_by_role("button", name="Start").click()
    assert field.evaluate("field => field.validity.patternMismatch")  # the browser says so itself
    field.fill("a-1")
    page.get_by_role("button", name="Start").click()
    on_screen(page, 1)
    page.goto(page.url.split("/play")[0])
    assert page.get_by_label("Your pseudonym").input_value() == "a-1"


# ---- names and contrast ----

CONTRAST = """() => {
  const light = (rgb) => {
    const [r, g, b] = rgb.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
  const behind = (it) => {
    for (; it; it = it.parentElement) {
      const [r, g, b, a = 1] = numbers(getComputedStyle(it).backgroundColor);
      if (a === 1) return [r, g, b];
      if (a !== 0) return [NaN, NaN, NaN];
    }
    return [NaN, NaN, NaN]; // the page itself has a colour
  };
  const found = [];
  for (const it of document.querySelectorAll("body *")) {
    const own = [...it.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim() !== "");
    if (!own || !it.checkVisibility() || it.closest("noscript")) continue;
    const [r, g, b, a = 1] = numbers(getComputedStyle(it).color);
    const [x, y] = [light([r, g, b]), light(behind(it))];
    found.push([it.textContent.trim(), a === 1 ? (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05) : 0]);
  }
  return found;
}"""


def contrasts(page):
    return dict(page.evaluate(CONTRAST))


def named(page):
    """Roles and names as assistive software gets them; everything that can be operated has a name."""
    shot = page.locator("body").aria_snapshot()
    operable = [line for line in (line.strip(" -:'") for line in shot.splitlines())
                if line.startswith(("button", "radio", "textbox", "link"))]  # fmt: skip
    assert operable
    assert all('"' in line for line in operable), shot
    return operable


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_names_and_contrast(tab, scheme):
    page = tab("/play?annotator=-", color_scheme=scheme)
    seen = contrasts(page)
    assert len(named(page)) == 6  # pseudonym, two decks, two modes, start
    page.goto(page.url.split("/play")[0] + play(f"see-{scheme}", "feedback"))
    page.keyboard.press("1")
    page.keyboard.press("2")
    assert len(named(page)) == IMAGES + 2
    seen |= contrasts(page)
    page.keyboard.press("Enter")
    page.wait_for_selector(".judged")
    assert len(named(page)) == IMAGES + 2
    seen |= contrasts(page)
    assert {"Start", "Submit", "Next screen", "generated", "✓ real", "✗ generated", "Stop"} <= set(seen)
    assert len(seen) > 15
    assert {text: ratio for text, ratio in seen.items() if not ratio >= 4.5} == {}


def test_contrast_is_measured(tab):
    """The measure itself: black on white has 21, and grey on white fails."""
    page = tab()
    page.evaluate("document.querySelector('h1').style.color = '#999999'")
    assert contrasts(page)["Visual Turing test"] == pytest.approx(2.85, abs=0.01)
    page.evaluate("document.querySelector('h1').style.color = '#000000'")
    assert contrasts(page)["Visual Turing test"] == pytest.approx(21)
