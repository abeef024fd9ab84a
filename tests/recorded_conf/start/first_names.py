"""Prints for the names on standard input those that the first version had; nothing where none was renamed."""

import json
import sys


def first(name: str) -> str:
    """Of a module, of what is in it, or of what is in that."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        given = ".".join([*parts[:length], "x"])
        if (found := canonical(given)) != given:
            return ".".join([found.removesuffix(".x"), *parts[length:]])
    return name


try:
    from kd_lightning.config.renamed import canonical
except ModuleNotFoundError:
    print("{}")
else:
    print(json.dumps({name: first(name) for name in json.load(sys.stdin)}))
