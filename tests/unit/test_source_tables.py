"""CSV, Parquet, and lists of URLs: what people's programs write, and what nobody should."""

import io
import tracemalloc
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imgsim.core.errors import InvalidRequest
from imgsim.sources import Item, ListSource, SourceChain, source_at, source_in
from imgsim.sources.csv_rows import CsvRows
from imgsim.sources.parquet_rows import ParquetRows
from imgsim.sources.tables import TableSource
from tests.unit.sources import MAGIC, Pieces, items_of, opener, outcome, outcomes, reach

IMAGE = MAGIC + b" of a cat"
URL = "http://example.org/cats/t%C3%B6m.jpg?v=1"


def csv(text: str | bytes, folder: Path | None = None, **options: Any) -> TableSource:
    data = text.encode() if isinstance(text, str) else text
    return TableSource("t.csv", CsvRows(opener(data)), folder, reach(urls={URL: IMAGE}, **options))


def parquet(rows: Sequence[dict[str, Any]] | pa.Table, **options: Any) -> TableSource:
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(list(rows))
    pq.write_table(table, out := io.BytesIO(), **options)
    return TableSource("t.parquet", ParquetRows(opener(out.getvalue())), None, reach(urls={URL: IMAGE}))


def text_list(text: bytes, folder: Path | None = None, **options: Any) -> ListSource:
    return ListSource("l.txt", opener(text), folder, reach(urls={URL: IMAGE}, **options))


async def one(source: TableSource) -> Item:
    (item,) = await items_of(source)
    return item


# CSV


async def test_the_columns_say_what_is_known_of_the_image() -> None:
    item = await one(
        csv(
            "url,tags,collection,filename,metadata,album,rating,owner,empty\n"
            f'{URL},"cat; sofa ;",pets,tom.jpg,"{{""camera"": {{""iso"": 100}}, ""album"": 8}}",7,4.5,Ann,\n'
        )
    )

    assert (item.label, item.filename, item.collection) == (URL, "tom.jpg", "pets")
    assert item.tags == ["cat", "sofa"]
    assert item.metadata == {"url": URL, "album": 8, "rating": 4.5, "owner": "Ann", "camera": {"iso": 100}}
    assert await outcome(item) == IMAGE


async def test_what_is_left_out_is_read_off_the_url() -> None:
    item = await one(csv(f"url\n{URL}\n"))

    assert (item.filename, item.collection, list(item.tags), item.metadata) == ("töm.jpg", None, [], {"url": URL})


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("7", 7),
        ("-7", -7),
        ("0", 0),
        ("1.50", 1.5),
        ("1e3", 1000.0),
        ("007", "007"),
        ("+7", "+7"),
        ("12345678901234567890", "12345678901234567890"),
        ("1e999", "1e999"),
        ("nan", "nan"),
        ("1_000", "1_000"),
        ("true", "true"),
        ("٣", "٣"),
        (" x ", "x"),
    ],
)
async def test_numbers_stay_numbers_and_names_of_digits_names(cell: str, value: object) -> None:
    found = (await one(csv(f"url,x\n{URL},{cell}\n"))).metadata["x"]

    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("cell", "tags"),
    [
        ("a;b", ["a", "b"]),
        ("a,b", ["a", "b"]),
        ('["a,b", 7]', ["a,b", "7"]),
        ("", []),
        ('["a", null]', ["a"]),
        ("a b", ["a b"]),
        ("7", ["7"]),
    ],
)
async def test_tags_come_separated_or_as_a_json_list(cell: str, tags: list[str]) -> None:
    quoted = cell.replace('"', '""')
    assert list((await one(csv(f'url,tags\n{URL},"{quoted}"\n'))).tags) == tags


@pytest.mark.parametrize(
    "text",
    [
        f"\ufeffurl,x\r\n{URL},7\r\n",
        f"url;x\n{URL};7",
        f"url\tx\n{URL}\t7\n\n\n",
        f'"url","x"\r"{URL}","7"\r',
        f" url , x \n{URL} , 7\n",
    ],
    ids=["BOM and CRLF", "semicolons", "tabs and empty lines", "quotes and CR", "blanks"],
)
async def test_however_it_is_written(text: str) -> None:
    assert (await one(csv(text))).metadata == {"url": URL, "x": 7}


async def test_quotes_hold_delimiters_quotes_and_line_breaks() -> None:
    item = await one(csv(f'url,about\n{URL},"a ""cat"", on\na sofa"\n'))

    assert item.metadata["about"] == 'a "cat", on\na sofa'


async def test_a_row_that_does_not_fit_fails_alone() -> None:
    source = csv(
        f'url,metadata,tags\n{URL},,\n,,\n{URL},[1],\n{URL},{{bad,\n{URL},,[bad\n{URL},,,,x\n"{URL}"x,,\n{URL}\n'
    )
    items = await items_of(source)

    found = [(item.label, await outcome(item)) for item in items]
    assert [found[0], found[-1]] == [(URL, IMAGE)] * 2
    assert [label for label, _ in found[1:-1]] == [f"t.csv, row {number}" for number in range(2, 8)]
    said = [str(reason) for _, reason in found[1:-1]]
    for words, reason in zip(
        ["neither a path nor a URL", "JSON object", "'metadata' begins", "'tags' begins", "5 cells", "Line 8"],
        said,
        strict=True,
    ):
        assert words in reason


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has: none"),
        ("name,size\na,1\n", "has: 'name', 'size'"),
        ("url,url\n", "'url' more than once"),
        ("\0\0\0", "has: "),
        ("path,path", "more than once"),
        ("x" * 200_000, "more than 131072 characters"),
    ],
)
async def test_a_table_without_the_columns_is_an_error_that_names_those_there_are(text: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        await items_of(csv(text))


async def test_nul_and_bytes_that_are_no_utf_8_spoil_their_row_alone(tmp_path: Path) -> None:
    (tmp_path / "cat.jpg").write_bytes(IMAGE)
    source = csv(b"path,x\ncat.jpg,1\nca\0t.jpg,2\ncaf\xe9.jpg,3\ncat.jpg,4\n", tmp_path)

    found = [await outcome(item) for item in await items_of(source)]
    assert found == [IMAGE, "No file can have this name.", "[Errno 2] No such file or directory: " + repr(
        str(tmp_path / "caf\udce9.jpg")
    ), IMAGE]  # fmt: skip


@pytest.mark.parametrize("filler", [b"x" * (1 << 20), b"a,b\n" * 1000], ids=["a line", "a quote never closed"])
async def test_a_row_of_a_gigabyte_is_read_no_further_than_a_row_may_go(filler: bytes) -> None:
    start = f'url,x\n{URL},1\n{URL},"'.encode()
    endless = TableSource("t.csv", CsvRows(lambda: _buffered(start, filler)), None, reach(urls={URL: IMAGE}))
    tracemalloc.start()
    try:
        found = [await outcome(item) for item in await items_of(endless)]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert found[0] == IMAGE
    assert "more than 131072 characters" in str(found[-1])
    assert peak < 20_000_000


def _buffered(start: bytes, filler: bytes) -> Any:
    return io.BufferedReader(Pieces(chain([start], repeat(filler, (1 << 30) // len(filler)))))


async def test_paths_are_relative_to_the_table_and_not_read_by_a_server(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "cat.jpg").write_bytes(IMAGE)
    (tmp_path / "t.csv").write_text("path,x\nsub/cat.jpg,1\nsub,2\n")

    source = source_at(str(tmp_path / "t.csv"), reach())
    assert await outcomes(source) == {
        f"{tmp_path}/sub/cat.jpg": IMAGE,
        f"{tmp_path}/sub": "This is no file.",
    }
    with pytest.raises(InvalidRequest, match="does not read its own files"):
        await items_of(csv("path,url\n/etc/passwd,\n", files=False))
    (sneaky,) = await items_of(csv("url\n/etc/passwd\n", files=False))
    assert "Paths are not read by a server" in str(await outcome(sneaky))


# Parquet


async def test_parquet_keeps_the_types_that_json_has() -> None:
    item = await one(
        parquet(
            [
                {
                    "url": URL,
                    "tags": ["cat", "sofa"],
                    "album": 7,
                    "rating": 4.5,
                    "liked": True,
                    "nothing": None,
                    "not_a_number": float("nan"),
                    "at": datetime(2026, 1, 2, tzinfo=UTC),
                    "price": Decimal("1.5"),
                    "raw": b"\0\1",
                    "nested": {"iso": [100, 200]},
                }
            ]
        )
    )

    assert list(item.tags) == ["cat", "sofa"]
    assert item.metadata == {
        "url": URL,
        "album": 7,
        "rating": 4.5,
        "liked": True,
        "at": "2026-01-02T00:00:00+00:00",
        "price": 1.5,
        "raw": "AAE=",
        "nested": {"iso": [100, 200]},
    }


async def test_parquet_is_read_a_few_rows_at_a_time() -> None:
    source = parquet([{"url": URL, "n": number} for number in range(3000)], row_group_size=700)

    assert source.count() == 3000
    assert [item.metadata["n"] for item in await items_of(source)] == list(range(3000))


async def test_a_text_that_is_written_once_for_many_rows_is_not_unpacked_for_each() -> None:
    large = pa.DictionaryArray.from_arrays(pa.array([0] * 255 + [1], pa.int32()), ["x" * (2 << 20), "small"])
    within = pa.ListArray.from_arrays(pa.array(range(257), pa.int32()), large)
    for column in (large, within):
        source = parquet(pa.table({"url": [URL] * 256, "large": column}), compression="zstd")
        tracemalloc.start()
        try:
            items = await items_of(source)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

        assert [item.label == URL for item in items] == [False] * 255 + [True]
        assert "bytes; at most 1048576 are read of one" in str(await outcome(items[3]))
        assert peak < 6_000_000


async def test_parquet_that_is_damaged_says_so() -> None:
    pq.write_table(pa.table({"url": [URL] * 5000, "x": [str(n) for n in range(5000)]}), out := io.BytesIO())
    whole = out.getvalue()
    for data in (b"", b"PAR1", b"junk" * 50, whole[: len(whole) // 2]):
        with pytest.raises(InvalidRequest, match="no Parquet file"):
            await items_of(TableSource("t", ParquetRows(opener(data)), None, reach()))
    broken = whole[:4] + b"\xff" * 200 + whole[204:]
    items = await items_of(TableSource("t", ParquetRows(opener(broken)), None, reach()))
    assert "damaged" in str(await outcome(items[-1]))


# lists


async def test_a_list_has_urls_and_comments() -> None:
    text = f"\ufeff# cats\n\n  {URL}  \r\n#no\ns3://b/k.jpg\n{URL}".encode()
    source = ListSource("l.txt", opener(text), None, reach(urls={URL: IMAGE}, s3={"s3://b/k.jpg": IMAGE}))

    assert source.count() == 3
    assert [await outcome(item) for item in await items_of(source)] == [IMAGE] * 3


async def test_lines_without_an_end_and_what_is_no_url_fail_alone(tmp_path: Path) -> None:
    source = text_list(b"x" * 100_000 + b"\nhttp://[broken\n" + URL.encode() + b"\n\xff\xfe\n", tmp_path)

    found = await outcomes(source)
    assert found["l.txt, line 1"] == "The line is longer than 8192 bytes."
    assert "no URL" in str(found["l.txt, line 2"])
    assert found[URL] == IMAGE
    assert len(found) == 4


async def test_s3_is_read_for_clients_only_where_the_setting_says_so() -> None:
    objects = {
        "s3://open/photos/cat.jpg?endpoint=http://s3": IMAGE,
        "s3://open/photos2/cat.jpg?endpoint=http://s3": IMAGE,
        "s3://shut/cat.jpg": IMAGE,
    }
    of_clients = reach(s3=objects, files=False)
    limited = type(of_clients)(
        of_clients.max_bytes,
        of_clients.begins_like_image,
        of_clients.fetch,
        of_clients.buckets,
        False,
        ("s3://open/photos?endpoint=http://s3",),
    )
    lines = b"s3://open/photos/cat.jpg\ns3://open/photos2/cat.jpg\ns3://shut/cat.jpg\ns3://open/photos/../cat.jpg\n"
    lines += b"s3://open/photos/cat.jpg?endpoint=http://169.254.169.254\n"

    first, *others = [await outcome(item) for item in await items_of(ListSource("l", opener(lines), None, limited))]
    assert first == IMAGE
    assert all("imports.s3" in str(each) for each in others)
    bucket = source_at("s3://open/photos", limited)
    found = await outcomes(bucket)
    assert found.pop("s3://open/photos/cat.jpg") == IMAGE
    assert "imports.s3" in str(found.pop("s3://open/photos2/cat.jpg"))
    assert not found


# which kind it is


@pytest.mark.parametrize(
    "name",
    ["a.zip", "A.ZIP", "a.tar", "a.tar.gz", "a.TGZ", "a.tar.bz2", "a.tar.xz", "a.csv", "a.tsv", "a.parquet", "a.txt"],
)
def test_the_suffix_says_what_a_file_is(name: str) -> None:
    assert source_in(name, opener(b""), None, reach()) is not None


async def test_sources_that_cannot_be_read_do_not_stop_the_others(tmp_path: Path) -> None:
    (tmp_path / "bad.zip").write_bytes(b"junk")
    (tmp_path / "cat.jpg").write_bytes(IMAGE)
    places = [str(tmp_path / "bad.zip"), str(tmp_path / "gone.csv"), str(tmp_path / "cat.jpg"), URL]
    source = SourceChain([source_at(place, reach(urls={URL: IMAGE})) for place in places])

    found = await outcomes(source)

    assert found[places[0]] == "This is no zip file."
    assert "No such file" in str(found[places[1]])
    assert [found[places[2]], found[URL]] == [IMAGE, IMAGE]


def test_without_pyarrow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(InvalidRequest, match=r"imgsim\[parquet\]"):
        ParquetRows(opener(b"")).columns()
