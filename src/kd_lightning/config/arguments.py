"""The words of a command: quotes where Hydra's grammar needs them, and what a bare word was meant for."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException

from kd_lightning.config.check import job_names
from kd_lightning.config.conf_dir import conf_dir
from kd_lightning.config.explain import near

# Groups that are chosen under another name than their own.
_PACKAGES = {"model": ("model@teacher", "model@student"), "experiment": ("+experiment",)}
_OPTIONAL = {"role": "+role@roles.<name>", "rollout": "+rollout@method.rollout", "term": "+term@method.terms.<name>"}


def readable(arguments: list[str]) -> list[str]:
    """The arguments with quotes around words that Hydra's grammar has no characters for, such as ``inputs=[Bär.png]``.

    Args:
        arguments: Of the command line. What can be read is left alone, and so is what no quotes would mend.
    """
    parser = OverridesParser.create()
    return [_quoted(parser, each) if "=" in each and not each.startswith("-") else each for each in arguments]


def _quoted(parser: OverridesParser, argument: str) -> str:
    if _reads(parser, argument):
        return argument
    key, _, value = argument.partition("=")
    in_list = value.startswith("[") and value.endswith("]")
    items = _items(value[1:-1] if in_list else value)
    text = ",".join(item if _reads(parser, f"key={item}") else _in_quotes(item) for item in items)
    mended = f"{key}=[{text}]" if in_list else f"{key}={text}"
    return mended if _reads(parser, mended) else argument


def _reads(parser: OverridesParser, argument: str) -> bool:
    try:
        parser.parse_override(argument)
    except HydraException:
        return False
    return True


def _items(text: str) -> list[str]:
    """The parts between commas; a comma in quotes that begin and end a part is none."""
    return [
        found.strip()
        for found in re.findall(r"""\s*(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[^,]+)(?=\s*(?:,|$))""", text)
    ]


def _in_quotes(word: str) -> str:
    """In double quotes; words that have some, or brackets that were left open, are no names and stay as they are."""
    return word if re.search(r'["\[\]{}=]', word) else '"' + re.sub(r"(\\+)$", r"\1\1", word) + '"'


def unreadable(error: BaseException) -> str | None:
    """One paragraph for an argument that Hydra cannot read; None for another error."""
    if not isinstance(error, OverrideParseException):
        return None
    argument = str(error.override)
    if "=" in argument:
        key, _, value = argument.partition("=")
        quoted = shlex.quote(f'{key}="{value}"')
        return (
            f"Error: cannot read {argument}. Lists are written {key}=[a,b], values with commas, brackets or equals"
            f" signs in quotes within quotes: {quoted}."
        )
    word = argument.lstrip("+~")
    meant = list(_meant(word))
    if meant:
        return f"Error: '{argument}' is no key=value. Did you mean {' or '.join(meant)}?"
    every = {name: written for group in _groups() for name, written in _choices(group)}
    close = near(word, list(every))
    return f"Error: '{argument}' is no key=value, such as method=kd. {close if close.startswith('Did') else ''}".strip()


def _meant(word: str) -> Iterator[str]:
    """What has this name: a choice of a group, a job, or a group or key that lacks its value."""
    for group in _groups():
        yield from (written for name, written in _choices(group) if name == word)
    if word in job_names():
        yield f"job={word}"
    group = word.partition("@")[0]
    if group in _groups():
        names = [name for name, _ in _choices(group)]
        prefix = word if "@" in word or group not in _PACKAGES else _PACKAGES[group][-1]
        yield f"{prefix}=<name>, of {', '.join(dict.fromkeys(names))}"


def _groups() -> list[str]:
    return sorted(path.name for path in conf_dir().iterdir() if path.is_dir() and path.name != "hydra")


def _choices(group: str) -> Iterator[tuple[str, str]]:
    """Every choice of a group and how it is written."""
    for name in sorted(path.stem for path in (conf_dir() / group).glob("*.yaml")):
        for key in _PACKAGES.get(group, (_OPTIONAL.get(group, group),)):
            yield name, f"{key}={name}"
