"""The page of the drawn digit, against the model in PyTorch."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select

from kat.analysis.inspect.activations import watch_inputs
from tests.browser import unavailable

pytestmark = pytest.mark.slow

SEVEN = [(-80, -90), (70, -90), (-20, 100)]
"""Where the pen goes, from the middle of the canvas."""


@pytest.fixture(scope="module")
def playground_model(script):
    return script("playground_model")


@pytest.fixture(scope="module")
def model(assets, playground_model):
    """The trained model in float64."""
    if "digit.safetensors" not in assets:
        unavailable("the model is not made: python scripts/playground.py")
    made = playground_model.new_model()
    made.load_state_dict(load_file(assets["digit.safetensors"]))
    return made.double().eval().requires_grad_(False)


@pytest.fixture
def page(assets, browser, address, model):
    """The page, which shows its first example."""
    if not any(name.startswith("onnxruntime/") for name in assets):
        unavailable("onnxruntime-web is not there: python scripts/playground.py, which needs npm")
    browser.visit(f"{address}digit/")
    browser.wait_for("return document.querySelector('#kat-bars .best, [role=alert]')")
    return browser


def seen(page):
    """The image that the network saw, (8, 8) in [0, 1]."""
    alpha = page.run(
        "return [...document.querySelector('#kat-seen').getContext('2d')"
        ".getImageData(0, 0, 8, 8).data].filter((_, k) => k % 4 == 3)"
    )
    return torch.tensor(alpha).view(8, 8).double().mul(16 / 255).round() / 16


def ink(page):
    """Return the drawing, (280, 280) in [0, 1]."""
    alpha = page.run(
        "return [...document.querySelector('#kat-canvas').getContext('2d')"
        ".getImageData(0, 0, 280, 280).data].filter((_, k) => k % 4 == 3)"
    )
    return torch.tensor(alpha).view(280, 280).double() / 255


def probabilities(page):
    """The numbers beside the bars."""
    texts = page.run(
        "return [...document.querySelectorAll('#kat-bars li span:last-child')]"
        ".map((e) => e.textContent)"
    )
    return np.array([float(text.removesuffix(" %")) for text in texts if text])


def draw(page, points):
    """Draws with the mouse."""
    canvas = page.driver.find_element(By.CSS_SELECTOR, "#kat-canvas")
    actions = ActionChains(page.driver, duration=50)
    actions.move_to_element_with_offset(canvas, *points[0]).click_and_hold()
    for point in points[1:]:
        actions.move_to_element_with_offset(canvas, *point)
    actions.release().perform()
    page.run("return new Promise((done) => setTimeout(done, 300))")


def test_drawings_become_images_as_in_python(page, playground_model):
    generator = torch.Generator().manual_seed(0)
    smooth = torch.randn(6, 1, 7, 7, generator=generator)
    drawings = torch.nn.functional.interpolate(smooth, (40, 56), mode="bicubic")[:, 0]
    drawings = drawings.clamp(0, 1)
    drawings[0] = 0
    drawings[0, 5:38, 20:24] = 1  # a bar, narrower than an image
    drawings[1] = 0
    drawings[1, 20:23, 3:50] = 1  # and one that is wider than high
    want = playground_model.to_digits(drawings.double())
    for drawing, image in zip(drawings.double(), want, strict=True):
        given = json.dumps(drawing.flatten().tolist())
        found = page.run(f"return import('../image.js').then((m) => m.toDigit({given}, 56, 40))")
        np.testing.assert_allclose(found, image.flatten(), atol=1 / 16 + 1e-9)
        assert np.mean(np.array(found) != image.flatten().numpy()) < 0.05
    nothing = "return import('../image.js').then((m) => m.toDigit(Array(2240).fill(0.4), 56, 40))"
    assert page.run(nothing) is None


def test_logits_are_those_of_the_model(page, model, playground_model):
    images = torch.rand(6, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = page.run(
        "return import('../digit.js').then(async (m) => { const model = await m.Model.load();"
        f" const found = []; for (const image of {images.flatten(1).tolist()})"
        " found.push((await model.run(image)).logits); return found; })"
    )
    want = model(playground_model.normalized(images)).numpy()
    np.testing.assert_allclose(found, want, atol=1e-4 * np.abs(want).max())


def test_a_drawn_digit_is_classified(page, model, playground_model):
    draw(page, SEVEN)
    image = seen(page)
    assert torch.equal(image, playground_model.to_digits(ink(page)[None])[0])
    want = 100 * model(playground_model.normalized(image[None])).softmax(1)[0].numpy()
    np.testing.assert_allclose(probabilities(page), want, atol=0.06)
    assert page.run("return document.querySelector('#kat-answer').textContent").startswith(
        "This looks like a 7"
    )
    page.click("#kat-clear")
    page.wait_for("return document.querySelector('#kat-answer').textContent == 'Draw a digit.'")
    assert ink(page).max() == 0


def test_histograms_are_those_of_the_models_inputs(page, assets, model, playground_model):
    draw(page, SEVEN)
    inputs = {}
    watch_inputs(model, [playground_model.normalized(seen(page)[None])], inputs.__setitem__)
    layers = json.loads(assets["digit.json"].read_text())["layers"]
    assert [layer["name"] for layer in layers] == list(inputs)
    counts = "return [...document.querySelectorAll('#kat-groups svg')].map((e) => e.dataset.counts)"
    floating = """
      return [...document.querySelectorAll("#kat-groups svg")].flatMap((svg) => {
        const number = (e, name) => Number(e.getAttribute(name));
        const zeros = [...svg.querySelectorAll(".kat-zero")].map((e) => number(e, "y1"));
        return [...svg.querySelectorAll(".kat-bar")].filter((bar) => {
          const end = number(bar, "y") + number(bar, "height");
          return number(bar, "y") < 7 || !zeros.some((zero) => Math.abs(zero - end) < 0.01);
        });
      }).length
    """
    for layer in layers:
        Select(page.driver.find_element(By.CSS_SELECTOR, "#kat-layer")).select_by_visible_text(
            layer["name"]
        )
        assert page.run(floating) == 0
        for text, x in zip(page.run(counts), inputs[layer["name"]], strict=True):
            found = np.array(text.split(","), dtype=int)
            want, _ = np.histogram(x.numpy(), len(found), (layer["low"], layer["high"]))
            assert want.sum() > 0.9 * len(x)
            assert abs(found.sum() - want.sum()) <= 1
            assert np.abs(found - want).sum() <= 4  # float32 rounds some across an edge
