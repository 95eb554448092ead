"""Rows of Parquet; needs the extra ``parquet`` (pyarrow)."""

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from imgsim.core.errors import ImgsimError, InvalidRequest
from imgsim.sources.tables import is_empty

Sizes = NDArray[np.int64]

_BATCH = 64  # rows that are held at a time, packed as they are
_LARGEST_ROW = 1 << 20  # bytes, unpacked; several rows are unpacked together as far as they stay below
_LARGEST_GROUP = 1 << 30  # bytes of one row group, as the file says: pyarrow holds a column of it
_EACH_VALUE = 8  # bytes that a value takes beside what it refers to


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
                    if isinstance(row, ImgsimError):
                        yield row
                        continue
                    yield {name: value for name, cell in row.items() if not is_empty(value := _plain(cell))}

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        try:
            from pyarrow import ArrowException
            from pyarrow.parquet import ParquetFile
        except ImportError as error:
            raise InvalidRequest("Parquet needs the extra parquet: pip install 'imgsim[parquet]'.") from error
        with self._open_file() as file:
            # Untrusted: no schema of Arrow's own, and no footer of more than 16 MiB.
            limits = {"thrift_string_size_limit": 1 << 24, "thrift_container_size_limit": 1 << 20}
            try:
                with ParquetFile(file, **limits) as plain:
                    metadata, texts = plain.metadata, _texts(plain.schema)
                table = ParquetFile(file, metadata=metadata, read_dictionary=texts, **limits)
            except (ArrowException, OSError, ValueError) as error:
                raise InvalidRequest(f"This is no Parquet file that can be read: {_first_line(error)}.") from error
            with table:
                yield table


def _texts(schema: Any) -> list[str]:
    """The columns whose values Parquet may write once for many rows; those stay as they are until they are measured."""
    columns = (schema.column(number) for number in range(len(schema)))
    return [
        column.path
        for column in columns
        if column.physical_type == "BYTE_ARRAY" and column.logical_type.type in ("STRING", "JSON", "NONE")
    ]


def _batches(table: Any) -> Iterator[list[dict[str, Any] | ImgsimError] | ImgsimError]:
    from pyarrow import ArrowException

    sizes = (table.metadata.row_group(number).total_byte_size for number in range(table.metadata.num_row_groups))
    if (largest := max(sizes, default=0)) > _LARGEST_GROUP:
        yield InvalidRequest(f"The table has a row group of {largest} bytes; at most {_LARGEST_GROUP} are read.")
        return
    try:
        for batch in table.iter_batches(_BATCH, use_threads=False):
            yield from _unpacked(batch, _row_sizes(batch))
    except (ArrowException, OSError, ValueError, OverflowError) as error:
        yield InvalidRequest(f"The Parquet file is damaged: {_first_line(error)}. What comes behind is not read.")


def _unpacked(batch: Any, sizes: Sizes) -> Iterator[list[dict[str, Any] | ImgsimError]]:
    """The rows of `batch`, halved until they fit: a value that is written once can stand in all of them."""
    if not len(sizes):
        return
    if (size := int(sizes.sum())) <= _LARGEST_ROW:
        yield batch.to_pylist()
    elif len(sizes) == 1:
        yield [InvalidRequest(f"The row has {size} bytes; at most {_LARGEST_ROW} are read of one.")]
    else:
        half = len(sizes) // 2
        yield from _unpacked(batch.slice(0, half), sizes[:half])
        yield from _unpacked(batch.slice(half), sizes[half:])


def _row_sizes(batch: Any) -> Sizes:
    """Bytes of each row, unpacked."""
    return sum((_sizes(column) for column in batch.columns), np.zeros(batch.num_rows, np.int64))


def _sizes(array: Any) -> Sizes:
    """Bytes of each value of `array`, unpacked."""
    import pyarrow.compute as pc
    from pyarrow import StructArray, types

    kind, own = array.type, np.full(len(array), _EACH_VALUE, np.int64)
    if types.is_dictionary(kind):
        own += np.append(_sizes(array.dictionary), 0)[np.asarray(pc.fill_null(array.indices, -1))]
    elif types.is_struct(kind):
        own += sum(_sizes(array.field(number)) for number in range(kind.num_fields))
    elif types.is_list(kind) or types.is_map(kind):
        offsets = np.asarray(array.offsets)
        within = array.values if types.is_list(kind) else StructArray.from_arrays([array.keys, array.items], "kv")
        before = np.concatenate([[0], np.cumsum(_sizes(within))])
        own += before[offsets[1:]] - before[offsets[:-1]]
    elif types.is_binary(kind) or types.is_string(kind) or types.is_fixed_size_binary(kind):
        own += np.asarray(pc.fill_null(pc.binary_length(array), 0))
    return own


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
