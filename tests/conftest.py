"""What every test shares: the Hypothesis profiles, and a look at the books of all actors when it is over (P11).

Rule: a fixture stands beside its users (the `conftest.py` of their folder) until two folders need it; then it comes
here.

Layout:
    tests/test_architecture.py   which module may import which
    tests/runtime/, actors/, transports/   mirror the package; virtual time and memory streams only
    tests/properties/            laws that cross modules (Hypothesis)
    tests/end_to_end/            real processes and sockets, real time: never with `autojump_clock`
    tests/faults/                children that do what no backend should: real processes, real time (promises.md F1-F49)
    tests/seeds/                 what the seeds document, sentence by sentence: some real processes, real time
    tests/contract/              what every transport promises, a row each; real sockets and processes, real time
    tests/counterparts/          other people's clients and servers, as processes (npm, PyPI): real time
    tests/conformance/           the official suite
"""

import os
from collections.abc import Generator, Iterator

import pytest
from hypothesis import settings

from tests.books import Books

# No deadline: wall time says nothing about a test on virtual time, and CI machines stall.
settings.register_profile("dev", deadline=None, max_examples=100)
# CI draws the same examples each time: what it says of a change is about the change. Looking for more is `dev`'s
# business, and `explore`'s, for a night: HYPOTHESIS_PROFILE=explore make pytest.
settings.register_profile("ci", deadline=None, max_examples=200, derandomize=True, print_blob=True)
settings.register_profile("explore", deadline=None, max_examples=2000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


@pytest.fixture(autouse=True)
def _the_books_balance() -> Iterator[None]:
    """accepted == answered + failed + cancelled + forwarded + in flight + waiting, of every actor that there was."""
    books = Books()
    with books.kept():
        yield
    wrong = books.wrong()
    assert not wrong, "\n".join(wrong)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What was logged crosses to another process (pytest-xdist), which half a surrogate pair cannot."""
    report = yield
    report.sections = [(title, text.encode(errors="backslashreplace").decode()) for title, text in report.sections]
    return report
