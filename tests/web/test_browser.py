"""The page as a person uses it, in a browser that reaches nothing but this machine."""

from pathlib import Path

import pytest

from finetune.web.result import DemoResult
from tests.web.browser import Browser, chromium
from tests.web.conftest import QUESTION


def check_quiet(browser: Browser, url: str) -> None:
    """Nothing was asked of another server, and the page has no faults."""
    own = (url, "data:", "blob:", "chrome:", "devtools:")
    assert [address for address in browser.requests() if not address.startswith(own)] == []
    assert browser.complaints() == []


@pytest.mark.slow
def test_a_person_asks_about_an_image_an_example_and_several_images(
    page: DemoResult, demo_run: Path, tmp_path: Path
) -> None:
    letters = [demo_run.parent / f"letter-{number}.png" for number in range(3)]
    with chromium(tmp_path / "profile") as browser:
        browser.open(page.url)
        assert "Choose an image and ask" in browser.text(".ft-empty")
        browser.upload(".ft-image input[type=file]", letters[0])
        browser.find(".ft-image img")
        browser.click("button.ft-ask")
        assert "Fill in: question" in browser.text(".toast-body")
        browser.type("textarea", QUESTION)
        browser.wait_for(".ft-shown code", f"answer en {QUESTION}")
        browser.click("button.ft-ask")
        assert "% confidence" in browser.text(".ft-answer")

        browser.click_text("label", "Free prompt")
        browser.type("textarea", "detect letter")
        browser.wait_for(".ft-shown code", "detect letter")
        browser.click("button.ft-ask")
        browser.find(".ft-swatch")
        drawn = browser.find(".ft-drawn img")
        assert browser.run("return arguments[0].naturalWidth", browser.as_argument(drawn)) >= 320

        browser.click(".ft-examples button")
        browser.wait_for(".ft-shown code", f"answer en {QUESTION}")
        browser.wait_for(".ft-answer", "in the data")

        browser.click_text("button[role=tab]", "Several images")
        browser.upload("input[type=file][multiple]", *letters)
        browser.wait_for(".file-preview", "letter-2")
        browser.type("textarea", QUESTION)
        browser.click("button.ft-ask-all")
        assert "letter-2.png" in browser.text(".ft-batch")
        assert browser.find(".ft-download")
        check_quiet(browser, page.url)


@pytest.mark.slow
def test_on_a_phone_nothing_is_wider_than_the_screen(
    page: DemoResult, demo_run: Path, tmp_path: Path
) -> None:
    with chromium(tmp_path / "profile", width=390, height=844, dark=True) as browser:
        browser.open(page.url)
        browser.click(".ft-examples button")
        browser.find(".ft-answer")
        assert browser.run("return document.documentElement.scrollWidth") == 390
        edge = "return Math.max(...[...document.querySelectorAll('.ft-answer, .ft-examples')].map("
        assert browser.run(edge + "one => one.getBoundingClientRect().right))") <= 390
        check_quiet(browser, page.url)
