"""The shell of a page, its tables, and text of strangers in them."""

from __future__ import annotations

import re

import jinja2
import pytest
from markupsafe import Markup

from noterec import pages
from noterec.errors import InputError
from noterec.pages import Figure, table


def body(text: str, **context: object) -> str:
    template = '{% extends "base.html" %}{% block main %}' + text + "{% endblock %}"
    return pages.environment().from_string(template).render(title="t", **context)


def test_a_page_may_load_nothing() -> None:
    page = pages.render("base.html", title="<b>\x00\ud800")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert policy.group(1).startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'")
    assert "<title>&lt;b&gt;\ufffd\ufffd" in page
    assert "<script" not in page and "http://" not in page and "https://" not in page
    assert not re.search(r"url\(|@import|(src|href)=", page)
    page.encode()


def test_templates_escape_and_know_their_names() -> None:
    page = body("{{ a }} {{ b }}", a="<i>\"'\x07", b=Markup("<b>kept</b>"))
    assert "&lt;i&gt;&#34;&#39;\ufffd <b>kept</b>" in page
    with pytest.raises(jinja2.UndefinedError):
        body("{{ missing }}")
    assert "1,234 22 Nov" in body("{{ n|number }} 22 Nov{{ none|day }}", n=1234, none=None)


def test_a_package_has_its_own_templates_and_the_shell() -> None:
    found = pages.environment("noterec.evaluation")
    assert found is pages.environment("noterec.evaluation")
    assert {"base.html", "report.html"} <= set(found.list_templates())


def test_numbers_stand_right_and_text_is_escaped() -> None:
    grid = table(
        ["arm", "n", "share", "said"],
        [["<b>", 1234, 0.5, "x"], ["mine", None, Figure("0.9", "0.8 – 1.0", best=True), Markup("<i>y</i>")]],
        caption='the "table"',
        own=[1],
    )
    assert '<th scope="row"><bdi>&lt;b&gt;</bdi></th><td class="n">1,234</td><td class="n">0.5</td>' in grid
    assert '<tr class="own">' in grid and '<td class="n">–</td>' in grid and "<td><i>y</i></td>" in grid
    assert '<td class="n"><b>0.9</b><small>0.8 – 1.0</small></td>' in grid
    assert grid.count('<th scope="col" class="n">') == 2
    assert 'aria-label="the &#34;table&#34;"' in grid
    assert "<td>yes</td>" in table(["a", "b"], [["x", True]])
    with pytest.raises(InputError, match="a row of 1 cells in a table of 2 columns"):
        table(["a", "b"], [["x"]])


def test_numbers_are_written_to_be_read() -> None:
    assert [pages.number(value) for value in (0, 1234567, 2.0, 0.12345678, 1234.56, -3)] == [
        "0", "1,234,567", "2", "0.1235", "1,234.6", "-3",
    ]  # fmt: skip
