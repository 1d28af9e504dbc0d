"""The order in which commands leave."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cloud_broker.queues import Lane, Order, Queue


def drain(queue: Queue) -> list[str]:
    out = []
    while (head := queue.head(lambda lane: True)) is not None:
        out.append(queue.pop(lane_of(head[2])))
    return out


def lane_of(command_id: str) -> Lane:
    return Lane(command_id[0])


def test_first_come_first_served_across_connections() -> None:
    queue = Queue()
    for number, command_id in enumerate(["a1", "b1", "a2", "b2"]):
        queue.put(lane_of(command_id), 0, number, command_id)
    assert drain(queue) == ["a1", "b1", "a2", "b2"]


def test_a_busy_connection_is_passed_over() -> None:
    queue = Queue()
    queue.put(Lane("a"), 0, 1, "a1")
    queue.put(Lane("b"), 0, 2, "b1")
    head = queue.head(lambda lane: lane.connection != "a")
    assert head is not None
    assert head[2] == "b1"


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(-2, 2), st.booleans()), max_size=40))
def test_what_leaves_is_what_was_put_and_not_removed_in_order(puts: list[tuple[str, int, bool]]) -> None:
    queue = Queue()
    expected = []
    for number, (connection, priority, removed) in enumerate(puts):
        command_id = f"{connection}{number}"
        queue.put(Lane(connection), priority, number, command_id)
        if removed:
            queue.remove(command_id)
        else:
            expected.append((-priority, number, command_id))
    assert len(queue) == len(expected)
    assert drain(queue) == [command_id for _, _, command_id in sorted(expected)]


def test_a_command_that_was_removed_may_be_put_again() -> None:
    queue = Queue()
    queue.put(Lane("a"), 0, 1, "a1")
    queue.remove("a1")
    queue.put(Lane("a"), 0, 1, "a1")
    assert drain(queue)[:1] == ["a1"]


@given(st.lists(st.sampled_from(["x", "y"]), max_size=20), st.data())
def test_only_the_first_of_each_key_may_leave(keys: list[str], data: st.DataObject) -> None:
    order = Order()
    lines: dict[str, list[str]] = {"x": [], "y": []}
    for number, key in enumerate(keys):
        lines[key].append(str(number))
        assert order.join("t", key, str(number)) is (len(lines[key]) == 1)
    while any(lines.values()):
        key = data.draw(st.sampled_from([key for key, line in lines.items() if line]))
        leaving = data.draw(st.sampled_from(lines[key]))
        first = lines[key][0] == leaving
        assert order.first("t", key, leaving) is first
        lines[key].remove(leaving)
        following = lines[key][0] if first and lines[key] else None
        assert order.leave("t", key, leaving) == following


def test_commands_that_end_while_nobody_takes_any_leave_nothing_behind() -> None:
    queue = Queue()
    for number in range(5_000):
        queue.put(Lane("erp"), 0, number, f"cmd_{number}")
        if number != 7:
            queue.remove(f"cmd_{number}")
    assert sum(map(len, queue._heaps.values())) < 2_500
    assert queue.head(lambda _: True) == (0, 7, "cmd_7")


def test_a_lane_is_taken_out_as_a_whole() -> None:
    queue = Queue()
    old, new, other = Lane("erp", "v1"), Lane("erp", "v2"), Lane("erp", "w1")
    for number in range(4):
        queue.put(old if number % 2 else other, 0, number, f"cmd_{number}")
    queue.remove("cmd_3")
    assert queue.clear(old) == ["cmd_1"]
    assert queue.clear(old) == []
    queue.put(new, 0, 1, "cmd_1")
    assert len(queue) == 3
    assert [queue.pop(lane) for lane in (other, new, other)] == ["cmd_0", "cmd_1", "cmd_2"]
    assert queue.head(lambda lane: True) is None
