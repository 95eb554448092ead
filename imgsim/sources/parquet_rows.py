"""Rows of Parquet; needs the extra ``parquet`` (pyarrow)."""

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, BinaryIO

from imgsim.core.errors import ImgsimError, InvalidRequest
from imgsim.sources.tables import is_empty

_BATCH = 256  # rows that are held at a time
_LARGEST_GROUP = 1 << 30  # bytes of one row group, unpacked: pyarrow holds a column of it


class ParquetRows:
    def __init__(self, open_file: Callable[[], BinaryIO]) -> None:
        self._open_file = open_file

    def columns(self) -> Sequence[str]:
        with self._opened() as table:
            return list(table.schema_arrow.names)

    def count(self) -> int | None:
        with self._opened() as table:
            return int(table.metadata.num_rows)

    def rows(self) -> Iterator[Mapping[str, Any] | ImgsimError]:
        with self._opened() as table:
            for batch in _batches(table):
                if isinstance(batch, ImgsimError):
                    yield batch
                    return
                for row in batch:
                    yield {name: value for name, cell in row.items() if not is_empty(value := _plain(cell))}

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        try:
            from pyarrow import ArrowException
            from pyarrow.parquet import ParquetFile
        except ImportError as error:
            raise InvalidRequest("Parquet needs the extra parquet: pip install 'imgsim[parquet]'.") from error
        with self._open_file() as file:
            try:
                # Untrusted: no schema of Arrow's own, and no footer of more than 16 MiB.
                table = ParquetFile(file, thrift_string_size_limit=1 << 24, thrift_container_size_limit=1 << 20)
            except (ArrowException, OSError, ValueError) as error:
                raise InvalidRequest(f"This is no Parquet file that can be read: {_first_line(error)}.") from error
            with table:
                yield table


def _batches(table: Any) -> Iterator[list[dict[str, Any]] | ImgsimError]:
    from pyarrow import ArrowException

    sizes = (table.metadata.row_group(number).total_byte_size for number in range(table.metadata.num_row_groups))
    if (largest := max(sizes, default=0)) > _LARGEST_GROUP:
        yield InvalidRequest(f"The table has a row group of {largest} bytes; at most {_LARGEST_GROUP} are read.")
        return
    try:
        for batch in table.iter_batches(_BATCH, use_threads=False):
            yield batch.to_pylist()
    except (ArrowException, OSError, ValueError, OverflowError) as error:
        yield InvalidRequest(f"The Parquet file is damaged: {_first_line(error)}. What comes behind is not read.")


def _plain(value: Any) -> Any:
    """`value` as JSON has it."""
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, dict):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200].rstrip(".")
