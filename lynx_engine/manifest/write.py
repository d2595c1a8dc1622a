"""Writes a manifest as YAML that reads back to the very same texts, whatever they look like."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast


def as_yaml(values: Mapping[str, Any]) -> str:
    """Return plain values as a YAML manifest.

    Every text stands in quotes, so that none is read as a number, a date or a word. Where one
    holds invisible or steering characters, all that is not ASCII is spelled out: a file must read
    as it renders.

    Args:
        values: Mappings, lists, texts and numbers; in the order in which they are to stand.
    """
    import yaml

    class Writer(yaml.SafeDumper):
        """Quotes texts, and writes equal values twice: the reader counts aliases."""

        def ignore_aliases(self, data: Any) -> bool:
            del data
            return True

    def quoted(writer: yaml.SafeDumper, text: _Text) -> yaml.ScalarNode:
        del writer
        return yaml.ScalarNode("tag:yaml.org,2002:str", str(text), style='"')

    Writer.add_representer(_Text, quoted)
    is_plain = all(text.isprintable() for text in _texts(dict(values)))
    return yaml.dump(
        _marked(dict(values)), Dumper=Writer, sort_keys=False, allow_unicode=is_plain, width=10**9
    )


class _Text(str):
    """A text that is written in quotes."""

    __slots__ = ()


def _marked(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _marked(inner) for key, inner in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_marked(inner) for inner in cast("list[Any]", value)]
    return _Text(value) if isinstance(value, str) else value


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        value = list(cast("dict[str, Any]", value).values())
    if isinstance(value, list):
        for inner in cast("list[Any]", value):
            yield from _texts(inner)
    elif isinstance(value, str):
        yield value
