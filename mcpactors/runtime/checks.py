"""What a number of our settings may be: validators for attrs.

Rule: PURE. A wrong value raises ValueError that begins with the setting's name and says what was expected.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final, get_args

from attrs import Attribute
from attrs.validators import optional

__all__ = ["LARGEST", "a", "flag", "none_or", "number", "one_of", "whole"]

LARGEST: Final = sys.float_info.max

Validator = Callable[[Any, "Attribute[Any]", Any], None]


def number(low: float = 0, high: float = LARGEST, *, above: bool = False) -> Validator:
    """A number from `low` (with `above`: from just above it) to `high`, and no NaN; `math.inf` has to be allowed."""
    expected = f"a{' finite' if high <= LARGEST else ''} number {'>' if above else '>='} {low:g}"
    expected += f" and <= {high:g}" if high < LARGEST else ""

    def check(value: Any) -> bool:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and low <= value <= high and not (above and value == low)

    return _checked(check, expected)


def whole(low: int = 0, high: int | None = None) -> Validator:
    """A whole number from `low` to `high`."""
    expected = f"an integer >= {low}" + ("" if high is None else f" and <= {high}")

    def check(value: Any) -> bool:
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        return is_whole and value >= low and (high is None or value <= high)

    return _checked(check, expected)


def one_of(words: Any) -> Validator:
    """One of the words of a `Literal`."""
    choices = get_args(words)
    return _checked(lambda value: isinstance(value, str) and value in choices, f"one of {', '.join(choices)}")


def a(kind: type) -> Validator:
    """A value of this class."""
    return _checked(lambda value: isinstance(value, kind), f"{kind.__name__}(...)")


def none_or(check: Validator) -> Validator:
    """None, or what passes this check."""
    return optional(check)


def flag(settings: Any, attribute: Attribute[Any], value: Any) -> None:
    """True or False."""
    _checked(lambda value: isinstance(value, bool), "true or false")(settings, attribute, value)


def _checked(fits: Callable[[Any], bool], expected: str) -> Validator:
    def check(settings: Any, attribute: Attribute[Any], value: Any) -> None:
        if not fits(value):
            raise ValueError(f"{attribute.name}: expected {expected}{'; ' if ',' in expected else ', '}got {value!r}")

    return check
