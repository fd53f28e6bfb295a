"""Who belongs to a child's family: a pure question about a table of processes."""

from hypothesis import given
from hypothesis import strategies as st

from mcpactors.transports.stdio.processes import Process, family, left_of

LEADER, OTHER, INIT = 100, 200, 1


def process(pid: int, parent: int = INIT, session: int | None = None, dead: bool = False) -> Process:
    return Process(pid, parent, session or pid, session or pid, started=pid * 7, dead=dead)


def table(*processes: Process) -> dict[int, Process]:
    return {each.pid: each for each in processes}


def nobody(pid: int) -> bool:
    return False


def pids(processes: list[Process]) -> list[int]:
    return [each.pid for each in processes]


def test_f47_a_session_a_mark_and_a_parent_each_make_a_relative() -> None:
    everybody = table(
        process(LEADER),
        process(101, LEADER, LEADER),
        process(102, INIT, LEADER),  # its parent is gone
        process(103, LEADER),  # a session of its own
        process(104, 103),  # below that
        process(105),  # a session of its own, no parent, but a mark
        process(106, 105),
        process(107),  # nothing of it
        process(OTHER, LEADER - 1),
    )
    assert pids(family(everybody, {105}.__contains__, (LEADER,))) == [100, 101, 102, 103, 104, 105, 106]


def test_f47_who_was_a_relative_stays_one_but_not_the_next_of_its_number() -> None:
    seen, next_of_its_number = process(103), Process(104, INIT, 104, 104, started=1, dead=False)
    everybody = table(seen, next_of_its_number)
    assert pids(family(everybody, nobody, (LEADER,), {103: seen.started, 104: 999})) == [103]


def test_f47_the_dead_are_no_relatives_but_their_children_are() -> None:
    everybody = table(process(LEADER, dead=True), process(103, LEADER, dead=True), process(104, 103))
    assert pids(family(everybody, nobody, (LEADER,))) == [104]


def test_f48_the_guardian_remembers_who_belonged_to_whom_while_parents_lived() -> None:
    known: dict[int, int] = {}
    with_parents = table(process(LEADER), process(101, LEADER, LEADER), process(103, LEADER))
    left_of(with_parents, {LEADER}.__contains__, known)
    # The only one with a mark has gone; one child has its session, the other one was its child.
    without = table(process(101, INIT, LEADER), process(103), process(OTHER))
    assert pids(left_of(without, nobody, known)) == [101, 103]
    assert pids(left_of(table(process(OTHER)), nobody, known)) == []
    assert known == {}


tables = st.dictionaries(
    st.integers(2, 12),
    st.tuples(st.integers(1, 12), st.integers(2, 12), st.booleans()),
    max_size=10,
).map(lambda rows: table(*(process(pid, parent, session, dead) for pid, (parent, session, dead) in rows.items())))


@given(tables, st.sets(st.integers(2, 12), max_size=3), st.integers(2, 12))
def test_f47_a_family_is_whole_and_nobody_elses(everybody: dict[int, Process], marked: set[int], leader: int) -> None:
    found = set(pids(family(everybody, marked.__contains__, (leader,))))

    def related(pid: int, seen: frozenset[int] = frozenset()) -> bool:
        if pid not in everybody or pid in seen:
            return False
        each = everybody[pid]
        near = leader in (pid, each.session) or (pid in marked and not each.dead)
        return near or related(each.parent, seen | {pid})

    assert found == {pid for pid, each in everybody.items() if not each.dead and related(pid)}
