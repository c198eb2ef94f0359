"""Nested mappings with entries addressed by dotted keys: {"model": {"n_layer": 4}} holds "model.n_layer"."""

from collections.abc import Iterator, Mapping
from typing import Any

Nested = Mapping[str, Any]


def join(prefix: str, name: str) -> str:
    """Returns the dotted key of an entry of a table."""
    return f"{prefix}.{name}" if prefix else name


def flatten(mapping: Nested, prefix: str = "") -> dict[str, Any]:
    """Returns every entry that is not a table, by its dotted key; an empty table has none.

    >>> flatten({"model": {"n_layer": 4}, "seed": 0})
    {'model.n_layer': 4, 'seed': 0}
    """
    return dict(_entries(mapping, prefix))


def _entries(mapping: Nested, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in mapping.items():
        if isinstance(value, Mapping):
            yield from _entries(value, join(prefix, name))
        else:
            yield join(prefix, name), value


def merge(under: Nested, over: Nested) -> dict[str, Any]:
    """Returns `under` with every entry of `over` laid on top, table by table; neither is changed.

    >>> merge({"model": {"n_layer": 4, "d_model": 64}}, {"model": {"n_layer": 1}})
    {'model': {'n_layer': 1, 'd_model': 64}}
    """
    merged = {name: merge(value, {}) if isinstance(value, Mapping) else value for name, value in under.items()}
    for name, value in over.items():
        below = merged.get(name)
        deeper = isinstance(value, Mapping)
        merged[name] = merge(below if deeper and isinstance(below, Mapping) else {}, value) if deeper else value
    return merged


def put(mapping: Nested, key: str, value: Any) -> dict[str, Any]:
    """Returns the mapping with `value` at a dotted key; what stood there, or in the way, is replaced.

    >>> put({"model": {"n_layer": 4}}, "model.n_head", 2)
    {'model': {'n_layer': 4, 'n_head': 2}}
    """
    name, _, rest = key.partition(".")
    below = mapping.get(name)
    return {**mapping, name: put(below if isinstance(below, Mapping) else {}, rest, value) if rest else value}
