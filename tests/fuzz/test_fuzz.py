"""Every fuzz target on its corpus, on what Hypothesis makes of it, and on every flip of what is sealed.

Rule: what atheris found once stands in the corpus and is tried each time, also where there is no atheris.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.server.request_state import AESGCMRequestStateCodec, InvalidRequestState

from tests.fuzz.targets import STATE, TARGETS, corpus_of

FLIPS = 100_000
each_target = pytest.mark.parametrize("name", TARGETS)


@each_target
def test_the_corpus_has_inputs_for_each_target_and_breaks_none(name: str) -> None:
    corpus = corpus_of(name)
    assert len(corpus) >= 4
    for data in corpus:
        TARGETS[name](data)


@st.composite
def changed(draw: st.DrawFn, corpus: list[bytes]) -> bytes:
    """An input of the corpus, or two spliced, with some bytes put in the place of others."""
    data = draw(st.sampled_from(corpus))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 8)))
        data = data[:start] + draw(st.binary(max_size=8) | st.sampled_from(corpus)) + data[end:]
    return data


@each_target
@given(data=st.data())
def test_nothing_that_is_made_of_the_corpus_breaks_a_target(name: str, data: st.DataObject) -> None:
    TARGETS[name](data.draw(st.binary(max_size=64) | changed(corpus_of(name))))


def test_f36_of_a_hundred_thousand_tampered_request_states_none_is_accepted() -> None:
    codec, chance = AESGCMRequestStateCodec([b"k" * 32]), random.Random(36)
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    assert codec.unseal(STATE) == b"parked:abc"
    tried: set[str] = set()
    while len(tried) < FLIPS:
        tampered = STATE
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(tampered))
            tampered = tampered[:at] + chance.choice(letters) + tampered[at + chance.randrange(2) :]
        if tampered != STATE and tampered not in tried:
            tried.add(tampered)
            with pytest.raises(InvalidRequestState):
                codec.unseal(tampered)
