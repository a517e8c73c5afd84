"""The page: what it draws, what it says, and that a browser shows it."""

import json
import re
import shutil
import time

import numpy as np
import pytest
from exported import RATE, make_run, speech_like, write_wav

from speechbrain_ext import __version__
from speechbrain_ext.layers.distances import RedundancyTable
from speechbrain_ext.layers.removal import Block
from speechllm.cli import main
from speechllm.demo.drawing import card, heat_map, marked, stack
from speechllm.demo.page import Session, serve
from speechllm.demo.systems import Said, load_systems
from speechllm.export.write import export_runs
from speechllm.exported.format import ExportError

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --no-first-run "
    "--disable-background-networking --disable-component-update "
    "--disable-sync --window-size=1280,1500"
).split()


@pytest.fixture(scope="module")
def exports(tmp_path_factory, decoder_folders, encoder_folders):
    """A whole system, and two of it with one and two layers less."""
    top = tmp_path_factory.mktemp("demo")
    blocks = {"less-two": Block(1, 2), "whole": None, "less-one": Block(2, 1)}
    for name, block in blocks.items():
        run = make_run(
            top / "runs" / name,
            decoder_folders["qwen2"],
            encoder_folders["wavlm"],
            block=block,
        )
        export_runs([run], str(top / name), tell=lambda line: None)
    return [str(top / name) for name in blocks]


@pytest.fixture(scope="module")
def systems(exports):
    """All three, loaded."""
    return load_systems(exports, "cpu")


def texts(html):
    """What is to be read of some HTML."""
    return " ".join(re.sub(r"<[^>]*>", " ", html).split())


def test_differences_are_marked_in_both():
    one, other = "the <red> cat sat", "the <red> dog sat down"
    left, right = marked(one, other, "gone"), marked(other, one, "new")
    assert left == 'the &lt;red&gt; <mark class="gone">cat</mark> sat'
    assert re.findall(r"<mark[^>]*>(.*?)</mark>", right) == ["dog", "down"]
    assert marked("same", "same", "new") == "same"


def test_the_deepest_stands_first_and_holes_are_hollow(systems):
    assert [one.removed for one in systems] == [0, 1, 2]
    bars = re.findall(r"<i[^>]*>", stack(systems[2]))
    assert [i for i, bar in enumerate(bars) if "gone" in bar] == [1, 2]
    assert len(bars) == 5 and "gone" not in stack(systems[0])
    assert systems[0].backbone_bytes > systems[2].backbone_bytes
    said = Said("<b>hi</b>", 0.5, 1.0, 3, None)
    shown = card(systems[2], said, None, "new")
    assert "&lt;b&gt;hi" in shown and "without layers 1-2" in texts(shown)
    assert "2.0 x real time" in shown and "GPU" not in shown


def test_the_map_shows_path_and_block():
    distances = np.array(
        [[0.3, 0.1, 0.2], [0.4, 0.5, np.nan], [0.6, np.nan, np.nan]]
    )
    table = RedundancyTable(distances, np.zeros((3, 3)), count=1)
    drawn = heat_map(table, [0, 1], "speech")
    assert drawn.count("<title>") == 6 and drawn.count("<circle") == 2
    assert "1 layers from 1: 0.1000" in drawn
    assert 'class="chosen"' in drawn
    # Layers here and there are no cell of the map.
    assert 'class="chosen"' not in heat_map(table, [0, 2])


def test_a_system_is_asked_once_for_a_recording(systems, tmp_path):
    session = Session(systems, None)
    wav = write_wav(tmp_path / "a.wav", seconds=1.2)
    left, right, drawn, known = session.show(wav, "asr", 2, {})
    assert set(known["said"]) == {"whole", "less-two"}
    expected = systems[0].model.transcribe((speech_like(1.2), RATE)).text
    assert texts(left).count(systems[0].name) == 1
    assert known["said"]["whole"].text and expected
    assert "this recording" in drawn and 'class="chosen"' in drawn
    said = known["said"]["whole"]
    *_, known = session.show(wav, "asr", 1, known)
    assert set(known["said"]) == {"whole", "less-two", "less-one"}
    assert known["said"]["whole"] is said
    # Another recording, or none: nothing of the first is left.
    *_, known = session.show(None, "asr", 1, known)
    assert known["said"] == {} and known["map"] is None


def test_what_does_not_fit_is_refused(exports, tmp_path, encoder_folders):
    from conftest import make_decoder

    table = RedundancyTable(np.full((3, 3), 0.5), np.zeros((3, 3)), 1)
    table.save(str(tmp_path / "other.json"))
    pytest.importorskip("gradio")
    with pytest.raises(ValueError, match="is of 3 layers"):
        serve(exports[:1], table=str(tmp_path / "other.json"))
    deeper = make_decoder("qwen2", tmp_path / "lm")
    run = make_run(
        tmp_path / "run", deeper, encoder_folders["wavlm"], task="AST en-de"
    )
    export_runs([run], str(tmp_path / "other"), tell=lambda line: None)
    with pytest.raises(ExportError, match="no task is in all"):
        load_systems([exports[0], str(tmp_path / "other")], "cpu")
    with pytest.raises(ExportError, match="several of them lack 2 layers"):
        load_systems([exports[1], exports[0], exports[0]], "cpu")


def test_a_space_is_a_folder(exports, tmp_path, capsys):
    pytest.importorskip("gradio")
    wheel = tmp_path / "speechllm-9-py3-none-any.whl"
    wheel.write_bytes(b"")
    folder = tmp_path / "space"
    words = ["demo", exports[1], "someone/pruned", "--space", str(folder)]
    assert main([*words, "--package", str(wheel)]) == 0
    assert f"{folder}/app.py" in capsys.readouterr().out
    app = (folder / "app.py").read_text()
    compile(app, "app.py", "exec")
    assert "['models/whole', 'someone/pruned']" in app
    assert (folder / "models/whole/manifest.json").is_file()
    wanted = "./speechllm-9-py3-none-any.whl[demo]\n"
    assert (folder / "requirements.txt").read_text() == wanted
    # Without a wheel: this very release, by the name that it is installed by.
    plain = tmp_path / "plain"
    assert main(["demo", exports[1], "--space", str(plain)]) == 0
    wanted = f"speechllm[demo]=={__version__}\n"
    assert (plain / "requirements.txt").read_text() == wanted
    head = (folder / "README.md").read_text().split("---")[1]
    import yaml

    told = yaml.safe_load(head)
    assert told["sdk"] == "gradio" and told["models"] == ["someone/pruned"]
    # It is not overwritten, and what is no export is not taken.
    assert main([*words]) == 1
    assert main(["demo", str(tmp_path), "--space", str(folder) + "2"]) == 1
    assert not (tmp_path / "space2").exists()


# ----------------------------------------------------------------------------
# A browser.


@pytest.fixture
def browser():
    """Chromium without a window."""
    selenium = pytest.importorskip("selenium.webdriver")
    driver = shutil.which("chromedriver")
    if not CHROMIUM or not driver:
        pytest.skip("chromium and chromedriver are not installed")
    options = selenium.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    service = selenium.ChromeService(driver)
    opened = selenium.Chrome(options=options, service=service)
    yield opened
    opened.quit()


def asked_for(browser):
    """Every address that the page wanted."""
    events = [
        json.loads(entry["message"])["message"]
        for entry in browser.get_log("performance")
    ]
    return {
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    }


def wait_for(browser, css, wanted, seconds=240):
    """The element's text, once it holds what is wanted."""
    from selenium.common.exceptions import WebDriverException

    until, text = time.monotonic() + seconds, ""
    while time.monotonic() < until:
        try:
            text = browser.find_element("css selector", css).text
        except WebDriverException:
            text = ""
        if wanted(text):
            return text
        time.sleep(0.2)
    raise AssertionError(f"{css}: still {text!r}")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_recording_is_dropped_in_a_browser(
    exports, systems, browser, tmp_path
):
    pytest.importorskip("gradio")
    wav = write_wav(tmp_path / "a.wav", seconds=1.2, seed=3)
    page, address = serve(exports, block=False, tell=lambda line: None)
    try:
        assert address.startswith("http://127.0.0.1:")
        browser.get(address)
        wait_for(browser, "#whole", lambda text: "5 of 5 layers" in text)
        upload = "#recording input[type=file]"
        browser.find_element("css selector", upload).send_keys(wav)
        said = [one.model.transcribe(wav).text for one in systems]
        for place, text in (("#whole", said[0]), ("#pruned", said[2])):
            shown = wait_for(browser, place, lambda t: "real time" in t)
            assert " ".join(text.split()) in " ".join(shown.split())
        hollow = browser.find_elements("css selector", "#pruned i.gone")
        assert len(hollow) == 2
        assert browser.find_elements("css selector", "#map circle")
        # One layer less far: the third system, the map's frame moves.
        number = "#depth input[type=number]"
        field = browser.find_element("css selector", number)
        field.clear()
        field.send_keys("1\n")
        wait_for(browser, "#pruned", lambda t: "4 of 5 layers" in t)
        shown = wait_for(browser, "#pruned", lambda t: "real time" in t)
        assert " ".join(said[1].split()) in " ".join(shown.split())
        # Nobody else was asked for anything.
        foreign = [
            url
            for url in asked_for(browser)
            if not url.startswith((address, "data:", "blob:"))
        ]
        assert foreign == []
        # On a telephone all of it fits the width.
        browser.set_window_size(500, 900)
        device = {"width": 390, "height": 844, "deviceScaleFactor": 2}
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", {**device, "mobile": True}
        )
        time.sleep(0.5)
        wide = "return document.documentElement.scrollWidth"
        assert browser.execute_script(wide) <= 390
        # Cards stand one above the other there, not in two thin columns.
        card_wide = "return document.querySelector('#pruned .card').offsetWidth"
        assert 300 < browser.execute_script(card_wide) <= 390
    finally:
        page.close()
