"""The host's real page in headless Chromium, on a real `simpletuner server`: `make webui` installs what it needs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from simpletuner_twinflow import TwinFlowOptions
from simpletuner_twinflow.options import PREFIX
from tests.host.settings.configs import RUNNABLE
from tests.webui import server

pytestmark = [
    pytest.mark.host,
    pytest.mark.skipif(not os.environ.get("WEBUI"), reason="needs a browser: make webui"),
]
KEYS = list(TwinFlowOptions.keys())
NAME = "few-steps"
CONFIG = RUNNABLE | {"twinflow_enabled": False}
COMMAND = Path(sys.executable).with_name("simpletuner-twinflow")
IMAGES = os.environ.get("WEBUI_IMAGES")  # a folder for the pictures of docs/webui.md
# As after a click on the cross of a tab's easy mode, which hides the form.
WHOLE_FORM = """for (const tab of ['basic', 'model', 'training'])
    localStorage.setItem(`st_${tab}_hints`, '{"ez_mode": false}')"""
FOR_PICTURES = ".event-dock-shell, .toast-container, .toast { display: none !important }"
FIELDS = "[...document.querySelectorAll('#section-twinflow [data-field-name]')]"
ADVERSARIAL = {PREFIX + name for name in TwinFlowOptions.names() if len(TwinFlowOptions.info(name).requires) > 1}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Where the server keeps its files."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "config").mkdir()
    (folder / "config/data.json").write_text("[]", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def address(home):
    with server.running(home) as address:
        server.set_up(address, home, NAME, CONFIG)
        yield address


@pytest.fixture
def file(address, home):
    """The active configuration, as it was at first."""
    path = home / "config" / NAME / "config.json"
    path.write_text(json.dumps(CONFIG), encoding="utf-8")
    return path


@pytest.fixture
def page(address, file):
    """The page with the tab that has the block."""
    from tests.webui.browser import page_of

    with page_of(address) as page:
        page.add_init_script(WHOLE_FORM)
        page.goto(f"{address}/web/trainer")
        show(page, "training")
        yield page


def show(page, tab):
    settle(page)
    page.click(f"[data-tab={tab}]")
    page.wait_for_selector(f"#{tab}-tab-content .form-section", state="attached")
    settle(page)


def settle(page):
    """Wait until the page has no answer of the server outstanding and knows its fields."""
    page.wait_for_function("window.dependencyManager?.initialized && !document.querySelector('.htmx-request')")
    page.wait_for_timeout(500)  # a field asks the server a little after a change


def switch_on(page):
    page.locator("#twinflow_enabled").check()
    page.locator("#twinflow_target_step_count").wait_for(state="visible")


def fill(page, **values):
    for name, value in values.items():
        page.fill(f"#{PREFIX}{name}", value)
        page.locator(f"#{PREFIX}{name}").blur()
    settle(page)


def visible(page):
    """The fields of the block that are seen and enabled, in the order of the page."""
    seen = f"{FIELDS}.filter(it => it.offsetParent && !it.querySelector('input, select, textarea').disabled)"
    return page.evaluate(f"{seen}.map(it => it.dataset.fieldName)")


def answer(page, button, place):
    """The lines that the page shows after a click on Validate or Run."""
    page.click(button)
    page.locator(f"{place} .alert").wait_for()
    return page.locator(f"{place} li").all_inner_texts()


def save(page):
    page.click("[aria-label='Save configuration']")
    with page.expect_response("**/api/training/config") as saved:
        page.click("#confirmSaveConfigButton")
    assert "Configuration saved" in saved.value.text()


def doctor(file):
    """Exit code and report of the command on a configuration."""
    result = subprocess.run([COMMAND, "doctor", "--json", file], cwd=file.parent, capture_output=True, text=True)
    return result.returncode, json.loads(result.stdout)


def picture(page, name, first, last=None):
    """Keep what stands from one element to another, where the pictures of the docs are wanted."""
    if IMAGES:
        page.add_style_tag(content=FOR_PICTURES)
        page.evaluate("document.activeElement.blur()")
        page.set_viewport_size({"width": 1100, "height": 2400})
        page.locator(first).scroll_into_view_if_needed()
        top, bottom = page.locator(first).bounding_box(), page.locator(last or first).bounding_box()
        height = bottom["y"] + bottom["height"] - top["y"] + 4
        page.screenshot(path=Path(IMAGES) / name, clip={**top, "height": height})


def test_block_shows_the_switch_alone_and_every_key_in_order_once_it_is_on(page):
    assert page.evaluate(f"{FIELDS}.map(it => it.dataset.fieldName)") == KEYS
    assert visible(page) == ["twinflow_enabled"]
    switch_on(page)
    assert visible(page) == [key for key in KEYS if key not in ADVERSARIAL]
    labels = page.locator("#section-twinflow label.form-label").all_inner_texts()
    assert all(label.strip().startswith("TwinFlow: ") for label in labels)
    assert page.locator("#twinflow_enhanced_range").input_value().split() == ["[", "0.0,", "1.0", "]"]
    picture(page, "webui_block.png", "#section-twinflow", "[data-field-name=twinflow_target_clamp]")
    page.locator("#twinflow_adversarial_enabled").check()
    assert visible(page) == KEYS
    page.locator("#twinflow_enabled").uncheck()
    assert visible(page) == ["twinflow_enabled"]


def test_switch_stays_where_it_is_after_a_look_at_the_distillation_methods(page):
    show(page, "model")
    show(page, "training")
    assert visible(page) == ["twinflow_enabled"]


def test_browser_takes_every_allowed_number_and_a_wrong_one_is_answered_at_the_field(page):
    switch_on(page)
    fill(page, delta_t="0.005", enhanced_ratio="0.25")
    valid = "[...document.querySelectorAll('#section-twinflow input')].every(it => it.validity.valid)"
    assert page.evaluate(valid)
    assert page.locator("#section-twinflow .field-invalid").count() == 0
    fill(page, enhanced_ratio="1.5")
    said = page.locator("#field-feedback-twinflow_enhanced_ratio")
    said.wait_for(state="visible")
    assert said.inner_text().startswith('twinflow_enhanced_ratio is "1.5"; allowed: 0 to below 1')
    assert page.locator("[aria-label='Save configuration']").is_disabled()


def test_documented_keys_link_to_the_hosts_pages(page):
    switch_on(page)
    links = page.locator("#section-twinflow a.doc-link")
    ends = {link.get_attribute("href").split("/SimpleTuner/")[1] for link in links.all()}
    assert ends == {"OPTIONS/#-twinflow_enabled", "OPTIONS/#-twinflow_target_step_count", "distillation/TWINFLOW/"}
    assert links.count() == sum(TwinFlowOptions.info(name).documented for name in TwinFlowOptions.names())


def test_validate_and_run_show_what_doctor_says_of_the_saved_configuration(page, file):
    file.write_text(json.dumps(CONFIG | {"controlnet": True}), encoding="utf-8")
    page.reload()
    show(page, "training")
    switch_on(page)
    page.locator("#internal_guidance_enabled").check()
    fill(page, guidance_scale="3", enhanced_ratio="0.25", role_shares='{"near": 1}')
    shown = answer(page, "#validateBtn", "#validation-results")
    assert len(shown) == 4
    picture(page, "webui_validate.png", "#validation-results")
    assert answer(page, "#runBtn", "#training-status") == shown
    assert "Cannot Start Training" in page.locator("#training-status").inner_text()
    save(page)
    code, report = doctor(file)
    assert (code, report["problems"]) == (1, shown)


def test_what_is_saved_is_kept_shown_again_and_passes_doctor(page, file):
    switch_on(page)
    fill(page, role_shares='{"near": 1, "sampler_step": 2}', enhanced_range="[0.2, 0.8]", delta_t="0.005")
    save(page)
    saved = json.loads(file.read_text(encoding="utf-8"))
    expected = {
        "twinflow_enabled": True,
        "twinflow_target_step_count": 2,
        "twinflow_role_shares": {"near": 1, "sampler_step": 2},
        "twinflow_enhanced_range": [0.2, 0.8],
        "twinflow_delta_t": 0.005,
    }
    assert {key: value for key, value in saved.items() if key.startswith(PREFIX)} == expected
    code, report = doctor(file)
    assert (code, report["problems"], report["on"]) == (0, [], True)
    page.reload()
    show(page, "basic")  # without our block on the page
    page.fill("#tracker_run_name", "another name")
    page.locator("#tracker_run_name").blur()
    settle(page)
    save(page)
    assert json.loads(file.read_text(encoding="utf-8")) == saved | {"tracker_run_name": "another name"}
    show(page, "training")
    assert json.loads(page.locator("#twinflow_role_shares").input_value()) == expected["twinflow_role_shares"]
    assert page.locator("#twinflow_enabled").is_checked()
    fill(page, role_shares="")
    save(page)
    assert "twinflow_role_shares" not in json.loads(file.read_text(encoding="utf-8"))
