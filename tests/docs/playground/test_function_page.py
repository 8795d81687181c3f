"""The page of the rational function, against the library."""

from __future__ import annotations

import itertools
import json
import math
from urllib.parse import parse_qs

import numpy as np
import pytest
import torch
from selenium.webdriver import Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select

import kat
from kat.analysis.cost.tables import compare_layers
from kat.nn import BSplineKANLinear, preset, preset_names
from kat.nn.coefficients import ALIASES
from kat.nn.fitting import evaluate, fit, parse_expression

pytestmark = pytest.mark.slow

MINUS, PRIME = "\u2212", "\u2032"
X = np.concatenate([np.linspace(-4, 4, 33), [1e-3, -1e-3, 37.5, -37.5]])


@pytest.fixture
def page(browser, address):
    """The page, ready; ``run_modules`` runs code with its modules."""
    browser.visit(f"{address}function/")
    browser.wait_for("return document.querySelector('.kat-line.f, [role=alert]')")
    return browser


def run_modules(page, code):
    """The value of a JavaScript expression of the modules R, E, F, U and C."""
    names = ("rational", "expression", "fit", "function", "chart")
    modules = ", ".join(f"import('../{name}.js')" for name in names)
    return page.run(f"return Promise.all([{modules}]).then(([R, E, F, U, C]) => {code})")


def by_kat(c, x):
    """F and F' by the library, in float64."""
    a, b = (torch.tensor(c[name], dtype=torch.float64)[None] for name in "ab")
    points = torch.tensor(x, dtype=torch.float64)[:, None].requires_grad_()
    y = kat.rational(points, a, b, form=c["form"], impl="reference")
    (slope,) = torch.autograd.grad(y.sum(), points)
    return y.detach().numpy()[:, 0], slope.numpy()[:, 0]


def type_into(page, selector, text):
    """Types into a field in the place of what it holds, and leaves it."""
    field = page.driver.find_element(By.CSS_SELECTOR, selector)
    field.send_keys(Keys.CONTROL + "a")
    field.send_keys(text, Keys.TAB)


def choose(page, selector, value):
    """Chooses an option of a menu by its text."""
    Select(page.driver.find_element(By.CSS_SELECTOR, selector)).select_by_visible_text(str(value))


def python_of(page):
    """The layer that the page's snippet makes."""
    made = {}
    exec(page.run("return document.querySelector('#kat-python').textContent"), made)
    return made["activation"]


def shown(page):
    """The state in the page's address, once it is written there."""
    page.wait_for("return location.hash.length > 1")
    page.run("return new Promise((done) => setTimeout(done, 400))")
    query = parse_qs(page.run("return location.hash.slice(1)"), keep_blank_values=True)
    return {name: values[0] for name, values in query.items()}


def test_values_are_those_of_kat(page):
    rng = np.random.default_rng(0)
    for m, n, form in itertools.product((1, 5, 9), (0, 1, 8), "AB"):
        c = {"form": form, "a": rng.normal(size=m + 1).tolist(), "b": rng.normal(size=n).tolist()}
        found = run_modules(page, f"{X.tolist()}.map((x) => R.evaluate({json.dumps(c)}, x))")
        f, slope, p, q = (np.array([one[key] for one in found]) for key in ("f", "slope", "p", "q"))
        want_f, want_slope = by_kat(c, X)
        want_p = np.polynomial.polynomial.polyval(X, c["a"])
        np.testing.assert_allclose(f, want_f, rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(slope, want_slope, rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(p, want_p, rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(q * want_f, want_p, rtol=1e-10, atol=1e-11)


def test_moments_and_limits_are_those_of_kat(page):
    for name in ("silu", "gelu", "relu", "tanh", "identity"):
        c = {"form": "A", "a": preset(name).numerator, "b": preset(name).denominator}
        given = json.dumps(c)
        moment, limits = run_modules(
            page, f"[R.secondMoment({given}), R.slopesAtInfinity({given})]"
        )
        assert 1 / moment == pytest.approx(kat.GroupRational(1, init=name).gain(), rel=1e-6)
        far = [by_kat(c, [x])[0][0] / x for x in (-1e8, 1e8)]
        # JSON has no infinity.
        assert limits == [None if abs(at) > 1e4 else pytest.approx(at, abs=1e-5) for at in far]


EXPRESSIONS = [
    "-x**2 + 2**-1", "2**3**0.5 * x", "x - 1 - 2*x/3/2", "gelu(x)", "gelu_tanh(x)", "swish(x)",
    "quick_gelu(x) + mish(x)", "softplus(3*x)", "leaky_relu(x) - relu(-x)", "erf(x) + erfc(x/3)",
    "erfc(3*x)", "max(x, -1) - min(x, .5)", "sign(x)*sqrt(abs(x))", "log1p(x**2)", "expm1(-x)",
    "atan(x) + tan(x/9)", "sinh(x/2) + cosh(x)", "1e-3*exp(x) + pi*e", "+-x", "sin(2*x)*cos(x)",
    "sigmoid(x)*tanh(x)", "log(x + 40)", "identity(x)", "silu(((x)))",
]  # fmt: skip


def test_expressions_mean_what_they_mean_in_python(page):
    x = np.linspace(-5, 5, 41)
    for text in EXPRESSIONS:
        found = run_modules(page, f"{x.tolist()}.map(E.parseExpression({json.dumps(text)}))")
        want = parse_expression(text)(x)
        np.testing.assert_allclose(found, want, rtol=1e-13, atol=1e-14, err_msg=text)


def test_other_texts_are_refused(page):
    for text, message in [
        ("x +", "ends too early"), ("x^2", "write ** for a power"),
        ("alert(1)", "no function “alert”"), ("x.constructor", "is not supported"),
        ("constructor(x)", "no function"), ("(" * 300 + "x", "too deeply"),
    ]:  # fmt: skip
        found = run_modules(
            page,
            f"{{ try {{ E.parseExpression({json.dumps(text)}); }} catch (error)"
            " { return [error instanceof E.ExpressionError, error.message]; } }",
        )
        assert found[0], text
        assert message in found[1]


FITS = [
    ("gelu(x)", (5, 4), "A", (-3.0, 3.0)),
    ("silu(x)", (5, 4), "B", (-3.0, 3.0)),
    ("relu(x)", (5, 4), "B", (-2.0, 5.0)),
    ("sin(2*x)", (3, 2), "A", (-2.0, 5.0)),
    ("exp(-x**2)", (4, 4), "B", (-3.0, 3.0)),
    ("x**2 * sigmoid(x)", (2, 0), "A", (-3.0, 3.0)),
    ("softplus(x)", (1, 3), "B", (-2.0, 5.0)),
]


def test_fits_are_as_close_as_those_of_python(page):
    for text, degree, form, interval in FITS:
        given = f"E.parseExpression('{text}'), {list(degree)}, '{form}', ...{list(interval)}"
        found = run_modules(page, f"F.fit({given})")
        want = fit(text, degree, form, interval, method="least_squares")
        x = np.linspace(*interval, 20001)
        error = evaluate(x, found["a"], found["b"], form) - parse_expression(text)(x)
        rms = math.sqrt(np.mean(np.square(error)))
        assert rms <= 1.03 * want.rms_error, text
        assert found["rms"] == pytest.approx(rms, rel=0.02)
        assert found["max"] == pytest.approx(np.max(np.abs(error)), rel=0.02)


def test_presets_are_those_of_kat(page):
    names = page.run(
        "return [...document.querySelectorAll('#kat-preset option')].map((o) => o.text)"
    )
    assert sorted(names[1:]) == sorted(set(preset_names()) - set(ALIASES))
    page.click("[name=kat-form][value=B]")
    choose(page, "#kat-preset", "mish")
    want = preset("mish", form="B")
    assert python_of(page).init.numerator == want.numerator
    assert python_of(page).init.denominator == want.denominator
    error = page.run("return document.querySelector('#kat-facts dd').textContent")
    assert float(error.replace(MINUS, "-")) == pytest.approx(want.max_error, rel=1e-2)


def test_a_fitted_function_is_copied_as_python(page):
    type_into(page, "#kat-expression", "x * sigmoid(2*x)")
    choose(page, "#kat-degree-m", 3)
    choose(page, "#kat-degree-n", 2)
    type_into(page, "#kat-low", "-2")
    type_into(page, "#kat-high", "2.5")
    page.click("#kat-fit")
    layer = python_of(page)
    assert (layer.degree, layer.form, layer.init.interval) == ((3, 2), "A", (-2.0, 2.5))
    want = fit("x * sigmoid(2*x)", (3, 2), "A", (-2.0, 2.5), method="least_squares")
    assert layer.init.max_error == pytest.approx(want.max_error, rel=0.02)
    x = np.linspace(-2, 2.5, 2001)
    f = layer.functions(torch.tensor(x))[0].detach().numpy()
    error = np.abs(f - parse_expression("x * sigmoid(2*x)")(x)).max()
    assert error == pytest.approx(layer.init.max_error, rel=0.02)
    state = shown(page)
    assert [float(value) for value in state["a"].split(",")] == list(layer.init.numerator)
    assert (state["f"], state["form"], state["from"]) == ("x * sigmoid(2*x)", "A", "-2")


def test_the_address_holds_the_state(page, address):
    state = "form=B&a=0.5,1,-0.25&b=0.3,-0.2,0.1&f=tanh(x)&from=-1&to=4"
    page.visit("about:blank")
    page.visit(f"{address}function/#{state}")
    page.wait_for("return document.querySelector('#kat-expression')?.value == 'tanh(x)'")
    layer = python_of(page)
    assert (layer.init.numerator, layer.init.denominator) == ((0.5, 1.0, -0.25), (0.3, -0.2, 0.1))
    values = page.run("return document.querySelector('#kat-values').textContent")
    x = -3.5 + 10 * 250 / 400
    c = {"form": "B", "a": layer.init.numerator, "b": layer.init.denominator}
    f, slope = (value[0] for value in by_kat(c, [x]))
    assert f"x = {x:g}: F = {f:.4g}, F{PRIME} = {slope:.4g}".replace("-", MINUS) in values
    for damaged in ("form=C&a=1,2", "form=A&a=1,nan", "form=A&a=1", "top"):
        assert run_modules(page, f"U.fromHash({json.dumps('#' + damaged)})") is None


def test_the_page_opens_on_a_function_that_left_its_start(page):
    assert page.run("return document.querySelector('#kat-expression').value") == "silu(x)"
    assert python_of(page).init.max_error > 1


def test_splines_and_costs_of_the_first_principles_are_those_of_kat(page):
    x = np.linspace(-7, 7, 57)
    found = page.run(f"return import('../principles.js').then((M) => {x.tolist()}.map(M.splines))")
    want = BSplineKANLinear(1, 1).splines(torch.tensor(x))
    np.testing.assert_allclose(found, want, atol=1e-12)
    costs = "return import('../principles.js').then((M) => Object.values(M.costs(192, 768, 8)))"
    want = [
        [row["parameters_by_formula"], row["flops_by_formula"]] for row in compare_layers(192, 768)
    ]
    want[1][0] += 1  # a_0 is not in the paper's formula
    assert page.run(costs) == want
