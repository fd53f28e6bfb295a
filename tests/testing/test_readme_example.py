"""The README's examples of property-testing a composition and of simulating one, and those of docs/testing.md,
executed as they stand there."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

README = Path(__file__).parent.parent.parent / "README.md"
PAGE = README.parent / "docs" / "testing.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
HEADING = "## Property-test your own composition"
SIMULATE = "### Simulate, script and spoil"


def snippet(heading: str = HEADING) -> str:
    """The first block of Python in that section of the README."""
    found = re.search(rf"{heading}\n.*?```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    assert found is not None, f"README.md has no section {heading!r} with a block of Python"
    return found[1]


def test_the_example_runs_and_is_found_by_test_runners() -> None:
    named: dict[str, Any] = {"__name__": "example"}
    exec(compile(snippet(), str(README), "exec"), named)
    few = settings(max_examples=5, stateful_step_count=10, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(named["MyComposition"], settings=few)
    assert named["TestMyComposition"].runTest


def test_the_example_is_short() -> None:
    code = [line for line in snippet().splitlines() if line.strip() and not line.startswith(("from", "import"))]
    assert len(code) <= 10


def test_the_example_of_a_simulation_holds() -> None:
    named: dict[str, Any] = {"__name__": "example"}
    exec(compile(snippet(SIMULATE), str(README), "exec"), named)
    named["test_one_crash_is_one_error"]()


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_each_block_of_the_page_holds(block: str, tmp_path: Path) -> None:
    named: dict[str, Any] = {"__name__": "example"}
    exec(compile(block, str(PAGE), "exec"), named)
    tests = [value for name, value in named.items() if name.startswith("test_")]
    for test in tests:
        test(**({"tmp_path": tmp_path} if "tmp_path" in inspect.signature(test).parameters else {}))
    if not tests:
        case = named["TestMyComposition"]
        few = settings(case.settings, max_examples=3, stateful_step_count=5)
        run_state_machine_as_test(named["MyComposition"], settings=few)
        kept = named["CompositionMachine"].TestCase.settings
        assert case.settings.max_examples == 30
        assert case.settings.suppress_health_check == kept.suppress_health_check
