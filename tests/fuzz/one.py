"""The process of one fuzzed target: `python -m tests.fuzz.one TARGET` and libFuzzer's own words.

Rule: atheris comes first, so that what the product does on an input is seen.
"""

import sys

import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]

with atheris.instrument_imports(include=["mcpactors"]):
    from tests.fuzz.targets import TARGETS

if __name__ == "__main__":
    program, name, *words = sys.argv
    atheris.Setup([program, *words], TARGETS[name])
    atheris.Fuzz()
