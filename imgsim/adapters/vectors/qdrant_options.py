"""What imgsim asks of a Qdrant server, and a local client knows nothing of."""

from collections.abc import Mapping
from dataclasses import dataclass

from qdrant_client import models

ORDERING = models.WriteOrdering.MEDIUM
"""Writes of one point by several processes go through one replica, and so end alike on all of them."""


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """How collections are laid out on a server, and searched. A local client knows none of this."""

    shards: int = 1
    replicas: int = 1
    quantized: bool = True
    """Keep vectors as int8 in memory and the full ones on disk, which score the best again."""

    def layout(self) -> dict[str, object]:
        """Arguments of ``create_collection``.

        A write is acknowledged by a majority of the replicas, and by one of two: else one lost node of two
        would stop all writing. The graph of the whole collection (`m`) stays beside the tenants' own
        (`payload_m`), because searches over all of them are made too.
        """
        int8 = models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=0.99, always_ram=True)
        return {
            "shard_number": self.shards,
            "replication_factor": self.replicas,
            "write_consistency_factor": (self.replicas + 1) // 2,
            "hnsw_config": models.HnswConfigDiff(m=16, payload_m=16, ef_construct=100),
            "quantization_config": models.ScalarQuantization(scalar=int8) if self.quantized else None,
        }

    def search(self, exact: bool) -> models.SearchParams:
        """`exact`: without graph and quantized vectors. The figures are of the engine embedded (`qdrant_edge`).

        With a graph of 100,000 points an ef of 256 gave a recall@10 of .975, the default (100) .911. The oversampling
        is the one that int8 needs without a graph (``qdrant_edge.SEARCH``); an ef of 256 holds as many candidates for
        64 hits.
        """
        if exact:
            ignored = models.QuantizationSearchParams(ignore=True)
            return models.SearchParams(exact=True, quantization=ignored if self.quantized else None)
        rescored = models.QuantizationSearchParams(rescore=True, oversampling=4.0)
        return models.SearchParams(hnsw_ef=256, quantization=rescored if self.quantized else None)


PAYLOAD_INDEXES: Mapping[str, models.KeywordIndexParams | models.IntegerIndexParams] = {
    "collection": models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True),
    "tags": models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD),
    "created": models.IntegerIndexParams(type=models.IntegerIndexType.INTEGER, range=True, lookup=False),
    "metadata": models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD),
}
