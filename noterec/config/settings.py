"""What all settings share, and how `load` reads them: defaults, then a YAML file, then `key=value` overrides."""

from __future__ import annotations

import difflib
import os
from typing import Any, TypeVar, get_args

import pydantic
import yaml
from pydantic import ConfigDict

from noterec.errors import ConfigError
from noterec.storage import local, value_hash


class Settings(pydantic.BaseModel):
    """Base of all settings: immutable, and strict about names."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def to_yaml(self) -> str:
        """These settings as YAML, in the order in which they are declared."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    @classmethod
    def described(cls, indent: str = "") -> str:
        """All settings at their defaults as YAML, each with what it means as a comment; the text is a valid `--config` file."""
        lines = []
        for name, field in cls.model_fields.items():
            default = field.get_default(call_default_factory=True)
            meaning = f"  # {field.description}" if field.description else ""
            if isinstance(default, Settings):
                lines += [f"{indent}{name}:{meaning}", type(default).described(indent + "  ")]
                continue
            value = yaml.safe_dump(default, default_flow_style=True, allow_unicode=True, width=10_000).strip()
            lines.append(f"{indent}{name}: {value.removesuffix('...').strip()}{meaning}")
        return "\n".join(lines)

    @property
    def hash(self) -> str:
        """16 hexadecimal digits that change when any setting changes."""
        return value_hash(self.model_dump(mode="json"))


S = TypeVar("S", bound=Settings)


def load(
    kind: type[S],
    /,
    file: str | os.PathLike[str] | None = None,
    overrides: list[str] | tuple[str, ...] = (),
    **given: Any,
) -> S:
    """Build settings from defaults, a YAML file, `key=value` strings and keyword arguments, the later the stronger.

    Args:
        kind: the settings class.
        file: a YAML file with a mapping of settings, or None.
        overrides: strings such as `lr=3e-4` or `prompt.title_tokens=20`; the value is read as YAML.
        given: settings by name; those that are None count as not given.

    Raises:
        ConfigError: the file isn't a mapping, a key is unknown (with the nearest name), or a value is out of range.
    """
    values: dict[str, Any] = {}
    if file is not None:
        try:
            values = yaml.safe_load(local(file).read_text(encoding="utf-8")) or {}
        except FileNotFoundError as error:
            raise ConfigError(f"{file}: no such file; expected a YAML file of {kind.__name__} settings") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file}: not valid YAML: {str(error).splitlines()[0]}") from error
        except OSError as error:
            raise ConfigError(f"{file}: can't be read: {error.strerror}; expected a YAML file") from error
        if not isinstance(values, dict):
            raise ConfigError(f"{file}: expected a mapping of settings (key: value), found {type(values).__name__}")
    for override in overrides:
        key, sign, text = override.partition("=")
        if not sign:
            raise ConfigError(f"--set {override}: expected KEY=VALUE")
        *path, last = key.strip().split(".")
        place = values
        for part in path:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise ConfigError(f"--set {override}: {part} is a single value and has no settings below it")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {override}: the value is not valid YAML; quote it") from error
        place[last] = float(value) if isinstance(value, str) and _is_number(value) else value
    values.update({key: value for key, value in given.items() if value is not None})
    return make(kind, values, where=str(file) if file else "settings")


def make(kind: type[S], values: dict[str, Any], *, where: str) -> S:
    """Validate a mapping as settings of a kind; `where` names its source in the message."""
    try:
        return kind.model_validate(values)
    except pydantic.ValidationError as error:
        raise ConfigError(f"{where}: " + "; ".join(_explain(kind, item) for item in error.errors())) from error


def _is_number(text: str) -> bool:
    try:
        float(text)  # YAML 1.1 reads 3e-4 as a string
    except ValueError:
        return False
    return True


def _explain(kind: type[Settings], item: Any) -> str:
    key = ".".join(str(part) for part in item["loc"])
    if item["type"] != "extra_forbidden":
        return f"{key or kind.__name__}: {item['msg']} (given: {item['input']!r})"
    fields: dict[str, Any] = kind.model_fields
    for part in item["loc"][:-1]:
        kinds = get_args(fields[part].annotation) or (fields[part].annotation,)  # a setting may also be absent
        fields = next(kind for kind in kinds if issubclass(kind, Settings)).model_fields
    near = difflib.get_close_matches(str(item["loc"][-1]), fields, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(fields)}"
    return f"unknown setting {key!r}; {hint}"
