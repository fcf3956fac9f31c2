"""The report in headless Chromium, where there is one: no error, no overflow, clicks that work."""

from __future__ import annotations

import shutil

import pytest
from checkpoints import llama_tensors, write_shards
from command import run_command
from compile_plan.backends import read_plan
from compile_plan.ir import human_size

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(
    (
        found
        for name in ("chromium-headless-shell", "chromium", "google-chrome")
        if (found := shutil.which(name))
    ),
    None,
)
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"),
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Write a report and a page of two plans."""
    folder = tmp_path_factory.mktemp("pages")
    model = str(write_shards(folder / "model", llama_tensors(layers=24, width=64), 1))
    for name, memory in (("a", "cuda:0=600KiB,cuda:1=600KiB"), ("b", "cuda:0=900KiB")):
        result = run_command(
            [model, "--memory", f"{memory},cpu=1GiB", "-q", "-o", f"{folder}/{name}.msgpack"]
        )
        assert result.code == 0, result.err
    assert run_command([f"{folder}/a.msgpack", "-q", "-o", f"{folder}/report.html"]).code == 0
    pair = [f"{folder}/a.msgpack", f"{folder}/b.msgpack"]
    assert run_command(["--diff", *pair, "-o", f"{folder}/diff.html"]).code == 0
    return folder


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(params=[(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")], ids=str)
def context(browser, request):
    width, scheme = request.param
    found = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
    yield found
    found.close()


def opened(context, path):
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(path.as_uri())
    return page, said


@pytest.mark.parametrize("name", ["report.html", "diff.html"])
def test_no_error_and_nothing_wider_than_the_screen(context, pages, name):
    page, said = opened(context, pages / name)
    width = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert (said, width[0] <= width[1]) == ([], True)


def test_a_strip_opens_by_click_and_goes_back_by_key(context, pages):
    page, said = opened(context, pages / "report.html")
    strip = page.locator(".strip").first
    before = strip.locator(".crumb").text_content()
    block = max(strip.locator("button").all(), key=lambda each: int(each.get_attribute("data-bytes")))
    block.click()
    inside = strip.locator(".crumb").text_content()
    assert inside.startswith(block.get_attribute("data-path").split(".")[0] + ",")
    block.press("ArrowRight")
    block.press("Escape")
    assert strip.locator(".crumb").text_content() == before
    assert said == []


def test_a_larger_budget_holds_more(context, pages):
    page, said = opened(context, pages / "report.html")
    total = page.locator("output.total")
    assert "off the accelerators" in total.text_content()
    for slider in page.locator("#whatif input").all():
        slider.press("End")
    assert total.text_content() == "everything would fit"
    assert said == []


def test_until_a_slider_is_moved_the_budgets_are_those_of_the_plan(context, pages):
    page, said = opened(context, pages / "report.html")
    plan = read_plan(pages / "a.msgpack")
    off = next(account for account in plan.ledger if account.device == "cpu")
    outputs = [each.text_content() for each in page.locator("#whatif label output").all()]
    cards = [account for account in plan.ledger if account.device != "cpu"]
    expected = [human_size(account.weights + account.buffers) for account in cards]
    assert [each.split(", ")[1] for each in outputs] == [f"{size} of the model" for size in expected]
    held = human_size(off.weights + off.buffers)
    assert page.locator("output.total").text_content() == f"{held} would be off the accelerators"
    slider = page.locator("#whatif input").first
    slider.press("Home")
    assert page.locator("#whatif label output").first.text_content() == "0B, 0B of the model"
    slider.press("End")
    assert page.locator("output.total").text_content() == "everything would fit"
    assert said == []


def test_the_ledger_is_told_by_moment(context, pages):
    page, _ = opened(context, pages / "report.html")
    plan = read_plan(pages / "a.msgpack")
    rows = page.locator("table.moments tr").all()
    heads = rows[0].locator("th").all_text_contents()
    assert heads[1] == "at rest"
    assert heads[2].startswith("reading the prompt (")
    assert heads[3].startswith("writing a token (")
    assert len(rows) - 1 == len(plan.ledger)
    for row, account in zip(rows[1:], plan.ledger, strict=True):
        device, rest, prompt, token = row.locator("td").all_text_contents()
        assert device == account.device
        assert prompt == human_size(account.total - account.margin)
        assert token == human_size(account.total - account.margin - account.activations)
        own = account.weights + account.buffers + account.row_cache + account.runtime + account.reserve
        assert rest == human_size(own)


def test_every_block_and_slider_has_a_name_for_who_cannot_see_it(context, pages):
    page, _ = opened(context, pages / "report.html")
    assert all(block.get_attribute("aria-label") for block in page.locator(".blocks button").all())
    assert page.get_by_role("slider", name="cuda:0").count() == 1
    assert page.get_by_role("group", name="cuda:0").count() == 1


def test_a_line_of_the_text_can_be_linked_to(context, pages):
    page, _ = opened(context, pages / "report.html")
    page.get_by_text(".plan", exact=False).locator("visible=true").last.click()
    link = page.locator("a.line").first
    link.click()
    assert page.url.endswith("#line-1")
