"""Filters as people write them."""

from datetime import UTC, datetime

import pytest

from imgsim.core.errors import InvalidRequest
from imgsim.core.filters import metadata_tokens, microseconds, parse_metadata, parse_time, valid_filter
from imgsim.core.models import ImageFilter, SearchFilter


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
        ("2026-01-31T12:00:00Z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31t12:00:00.25z", datetime(2026, 1, 31, 12, 0, 0, 250_000, tzinfo=UTC)),
        ("2026-01-31T12:00:00.123456789+02:00", datetime(2026, 1, 31, 10, 0, 0, 123_456, tzinfo=UTC)),
        ("0001-01-01", datetime.min.replace(tzinfo=UTC)),
    ],
)
def test_times_are_dates_and_date_times_of_rfc_3339(text: str, moment: datetime) -> None:
    assert parse_time(text, "created_from") == moment


@pytest.mark.parametrize(
    "text",
    ["", "yesterday", "2026", "2026-13-01", "2026-02-30", "20260131", "2026-W05-1", "2026-01-31T12:00:00",
     "2026-01-31T25:00:00Z", "2026-01-31T12:00:60Z", "2026-01-31 12:00:00Z", "2026-01-31T12:00:00 02:00",
     "0001-01-01T00:00:00+02:00", "9999-12-31T23:59:59-02:00", "٢٠٢٦-٠١-٣١", "1769860800", "x" * 5_000],
)  # fmt: skip
def test_what_is_no_time_is_refused_with_its_name(text: str) -> None:
    with pytest.raises(InvalidRequest, match="created_to is a date or a date-time"):
        parse_time(text, "created_to")


def test_metadata_is_json_where_it_is_a_scalar_and_else_a_text() -> None:
    for pair, key, value in (
        ("a=7", "a", 7), ("a=7.5", "a", 7.5), ("a=true", "a", True), ("a=null", "a", None), ('a="7"', "a", "7"),
        ("a=Ann", "a", "Ann"), ("a=", "a", ""), ("a=[1]", "a", "[1]"), ("a=x=y", "a", "x=y"), ("=1", "", 1),
        ("a=NaN", "a", "NaN"), ("a=1e999", "a", "1e999"), ("a={}", "a", "{}"), ("a=" + "[" * 9000, "a", "[" * 9000),
    ):  # fmt: skip
        assert parse_metadata([pair]) == {key: value}
        assert type(parse_metadata([pair])[key]) is type(value)
    assert parse_metadata(["a=1", "b=2"]) == {"a": 1, "b": 2}
    with pytest.raises(InvalidRequest, match="key=value, not 'album'"):
        parse_metadata(["album"])
    with pytest.raises(InvalidRequest, match="'a' twice"):
        parse_metadata(["a=1", "a=2"])


def test_tokens_are_the_same_for_what_is_equal_in_json_and_for_nothing_else() -> None:
    equal = [{"a": 7}, {"a": 7.0}]
    others: list[dict[str, object]] = [
        {"a": "7"}, {"a": 8}, {"a": 7.5}, {"a": True}, {"a": None}, {"a": "True"}, {"a": ""}, {"b": 7}, {'a":7,"b': 7},
        {"a": 1e300}, {"a": "x" * 999}, {"a": "x" * 998}, {"a": -7},
    ]  # fmt: skip
    assert metadata_tokens(equal[0]) == metadata_tokens(equal[1]) == ['"a":7']
    assert metadata_tokens({"a": 0}) == metadata_tokens({"a": -0.0})
    found = {token for each in (equal[0], *others) for token in metadata_tokens(each)}
    assert len(found) == 1 + len(others)
    assert max(map(len, found)) <= 256
    assert metadata_tokens({"list": [1], "object": {"a": 7}}) == []


def test_microseconds_are_exact_and_even_in_a_float() -> None:
    last = datetime(2254, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
    for moment in (datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=UTC), last):
        assert float(microseconds(moment)) == microseconds(moment)
        assert microseconds(moment) % 1_000_000 == moment.microsecond
        assert microseconds(moment) // 1_000_000 == int(moment.replace(microsecond=0).timestamp())


def test_filters_that_nothing_can_pass_are_refused() -> None:
    day = datetime(2026, 1, 1, tzinfo=UTC)
    for where in (ImageFilter(created_from=day, created_to=day), SearchFilter(created_from=day, created_to=day)):
        with pytest.raises(InvalidRequest, match="created_from"):
            valid_filter(where)
    for name, tags in (("tag", "tags"), ("any_tag", "any_tags"), ("not_tag", "no_tags")):
        with pytest.raises(InvalidRequest, match=f"at most 100 tags; {name} was given 101"):
            valid_filter(SearchFilter(**{tags: ["x"] * 101}))  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="'deep' has none of these"):
        valid_filter(SearchFilter(metadata={"deep": {}}))  # type: ignore[dict-item]
    with pytest.raises(InvalidRequest, match="at most 100 keys"):
        valid_filter(SearchFilter(metadata={str(n): n for n in range(101)}))
