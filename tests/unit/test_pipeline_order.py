"""The order of the stages: what ``after`` and ``before`` say, then the name."""

from collections.abc import Sequence
from itertools import permutations
from typing import Any

import pytest

from imgsim.core.errors import PluginError
from imgsim.pipeline.registry import order_stages


class Named:
    def __init__(self, name: str, after: Any = (), before: Any = ()) -> None:
        self.name, self.after, self.before = name, after, before

    async def run(self, ctx: Any) -> None: ...


class Bare:
    """A stage may leave out both relations."""

    name = "bare"

    async def run(self, ctx: Any) -> None: ...


def names(stages: Sequence[Any]) -> list[str]:
    return [stage.name for stage in order_stages(stages)]


def test_a_stage_runs_after_the_ones_it_names() -> None:
    assert names([Named("a", after=("b", "c")), Named("b", after=("c",)), Named("c")]) == ["c", "b", "a"]


def test_a_stage_runs_before_the_ones_it_names() -> None:
    assert names([Named("a"), Named("z", before=("a",))]) == ["z", "a"]


def test_after_and_before_together_put_a_stage_between_two() -> None:
    assert names([Named("index", after=("embed",)), Named("embed"), Named("x", ("embed",), ("index",))]) == [
        "embed",
        "x",
        "index",
    ]


def test_what_is_left_open_is_decided_by_name_however_the_stages_come() -> None:
    stages = [Named("d", after=("b",)), Named("a"), Named("b"), Named("c", before=("d",))]

    assert {tuple(names(each)) for each in permutations(stages)} == {("a", "b", "c", "d")}


def test_a_single_name_may_stand_as_a_string() -> None:
    assert names([Named("a", after="embed"), Named("embed", before="z"), Named("z")]) == ["embed", "a", "z"]


def test_a_stage_needs_neither_relation() -> None:
    assert names([Bare(), Named("a", after="bare", before=None)]) == ["bare", "a"]


def test_naming_a_stage_twice_changes_nothing() -> None:
    assert names([Named("a", after=("b", "b")), Named("b", before=("a",))]) == ["b", "a"]


def test_no_stages_have_an_order_too() -> None:
    assert names([]) == []


@pytest.mark.parametrize("relation", ["after", "before"])
def test_an_unknown_name_is_an_error_that_names_both_and_those_there_are(relation: str) -> None:
    with pytest.raises(PluginError) as raised:
        order_stages([Named("mine", **{relation: "embde"}), Named("embed")])

    assert raised.value.message == (
        f"The stage 'mine' is to run {relation} 'embde', but no stage is named so. There are: embed, mine."
    )


def test_a_cycle_is_an_error_that_names_its_stages_only() -> None:
    with pytest.raises(PluginError) as raised:
        order_stages([Named("a", after="b"), Named("b", after="c"), Named("c", after="a"), Named("innocent")])

    message = raised.value.message
    assert message.startswith("The stages wait for each other: ")
    assert sorted(set(message.rpartition(": ")[2].rstrip(".").split(" → "))) == ["a", "b", "c"]


def test_a_stage_that_waits_for_itself_is_a_cycle() -> None:
    with pytest.raises(PluginError, match=r"wait for each other: a → a\."):
        order_stages([Named("a", after="a")])


def test_two_stages_of_one_name_are_an_error() -> None:
    with pytest.raises(PluginError, match="Two stages are named 'a'"):
        order_stages([Named("a"), Named("a")])
