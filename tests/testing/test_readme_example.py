"""The README's examples of property-testing a composition and of simulating one, executed as they stand there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

README = Path(__file__).parent.parent.parent / "README.md"
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
