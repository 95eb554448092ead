"""Vectors in Qdrant's local client: needs no server and forgets all. The index for tests."""

from qdrant_client import AsyncQdrantClient

from imgsim.adapters.vectors.qdrant import QdrantVectorIndex


def qdrant_memory_vector_index() -> QdrantVectorIndex:
    """An index that lives as long as the object."""
    return QdrantVectorIndex(AsyncQdrantClient(":memory:"))
