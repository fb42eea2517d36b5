"""Templates, and the text that becomes a file."""

from __future__ import annotations

import functools
from typing import Any

import jinja2
from markupsafe import Markup

from noterec.pages.tables import table
from noterec.pages.text import clean, day, number

BASE = "noterec.pages"


@functools.cache
def environment(package: str = BASE) -> jinja2.Environment:
    """The templates of a package (its folder `templates`), which may extend and include those of `noterec.pages`.

    Everything a template writes is cleaned of characters that no page should hold, and escaped unless it is `Markup`; a name that
    isn't given is an error. Filters: `number`, `day`. Function: `table`.

    Args:
        package: such as "noterec.evaluation".
    """
    places = [jinja2.PackageLoader(name) for name in dict.fromkeys([package, BASE])]
    found = jinja2.Environment(
        loader=jinja2.ChoiceLoader(places),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_fit,
    )
    found.filters.update(number=number, day=day)
    found.globals.update(table=table)
    return found


def render(template: str, *, package: str = BASE, **context: Any) -> str:
    """A page as text without anything that UTF-8 can't say, ready to be written to a file.

    Args:
        template: the name of a file in the package's folder `templates`.
        package: such as "noterec.evaluation"; `noterec.pages` itself unless given.
        context: what the template names.
    """
    return environment(package).get_template(template).render(**context)


def _fit(value: object) -> object:
    return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value
