"""The systems that `make bench-search` compares: each builds its index over the same rows and answers the k nearest ids.

A row n passes the filter of a share 1/s where n % s = 1. Every system gets what its documentation recommends for such filters.
"""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vdx_udf import engine, settings
from vdx_udf.commands import target
from vdx_udf.installer.install import install, stop_encoder
from vdx_udf.installer.layout import Layout

SHARES = (2, 10, 100, 1000)  # one row in so many passes
Search = Callable[[np.ndarray, int, int], list[int]]  # (query, k, one in so many or 0) to row numbers, nearest first


def bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


class Ours:
    """This bundle on the embedded engine. `bare`: ClickHouse's plain statement over the same table, which checks nothing; filtered
    it is the exact scan of what passes.
    """

    def __init__(self, folder: Path, index: str = settings.INDEX):
        self.layout = Layout.embedded(folder / "engine")
        list(install(self.layout, "vdx-tiny", index=index))
        self.client = target.connect_embedded(self.layout.state)
        engine.apply_schema(self.client, self.layout.sql)

    def build(self, vectors: np.ndarray) -> float:
        path = self.layout.user_files / "vectors.npy"
        np.save(path, vectors)
        attributes = ", ".join(f"'{share}', if(n % {share} = 1, 'yes', 'no')" for share in SHARES)
        self.client.command("ALTER TABLE images MODIFY SETTING materialize_skip_indexes_on_merge = 0")
        self.client.command(
            f"INSERT INTO images (source, dataset, model, vector, attributes) SELECT toString(n), 'bench', 'vdx-tiny', array, map({attributes})"
            f" FROM (SELECT rowNumberInAllBlocks() AS n, array FROM file('{path}', Npy, 'array Array(Float32)'))"
            " SETTINGS max_threads = 1, materialize_skip_indexes_on_insert = 0, optimize_on_insert = 0"
        )
        path.unlink()
        self.client.command("OPTIMIZE TABLE images FINAL")
        began = time.perf_counter()
        self.client.command("ALTER TABLE images MATERIALIZE INDEX vector_index SETTINGS mutations_sync = 2")
        return time.perf_counter() - began

    def index_size(self) -> int:
        statement = "SELECT sum(secondary_indices_uncompressed_bytes) FROM system.parts WHERE active AND table = 'images'"
        return self.client.query(statement).result_rows[0][0]

    def size(self) -> int:
        return self.client.query("SELECT sum(bytes_on_disk) FROM system.parts WHERE active AND table = 'images'").result_rows[
            0
        ][0]

    def connect(self) -> Search:
        client = target.connect_embedded(self.layout.state)

        def search(query: np.ndarray, k: int, share: int) -> list[int]:
            view = (
                f"search_vector_where(vector = {{v:Array(Float32)}}, dataset = '', attribute = '{share}', value = 'yes', k = {k})"
                if share
                else f"search_vector(vector = {{v:Array(Float32)}}, k = {k})"
            )
            rows = client.query(f"SELECT id, source, dataset, distance FROM {view}", {"v": query.tolist()}).result_rows
            return [int(row[1]) for row in rows]

        return search

    def connect_bare(self, more: str = "") -> Search:
        """`more`: further settings of the statement."""
        client = target.connect_embedded(self.layout.state)

        def search(query: np.ndarray, k: int, share: int) -> list[int]:
            where = f"WHERE attributes['{share}'] = 'yes'" if share else ""
            rows = client.query(
                "SELECT id, source, dataset, cosineDistance(vector, {v:Array(Float32)}) AS distance FROM images"
                f" {where} ORDER BY distance LIMIT {k} SETTINGS vector_search_filter_strategy = 'prefilter'{more}",
                {"v": query.tolist()},
            ).result_rows
            return [int(row[1]) for row in rows]

        return search

    def close(self) -> None:
        self.client.close()
        stop_encoder(self.layout)


class Lance:
    """LanceDB: IVF_HNSW_SQ, bitmap indexes on what is filtered by."""

    def __init__(self, folder: Path):
        import lancedb

        self.folder = folder / "lance"
        self.connection = lancedb.connect(self.folder)

    def build(self, vectors: np.ndarray) -> float:
        import pyarrow as pa

        number = np.arange(len(vectors))
        columns: dict[str, Any] = {"id": number, "source": number.astype(str)}
        columns |= {f"share_{share}": number % share == 1 for share in SHARES}
        columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
        table = self.connection.create_table("images", pa.table(columns))
        began = time.perf_counter()
        table.create_index(metric="cosine", index_type="IVF_HNSW_SQ")
        for share in SHARES:
            table.create_scalar_index(f"share_{share}", index_type="BITMAP")
        return time.perf_counter() - began

    def size(self) -> int:
        return bytes_below(self.folder)

    def connect(self) -> Search:
        table = self.connection.open_table("images")

        def search(query: np.ndarray, k: int, share: int) -> list[int]:
            found = table.search(query).distance_type("cosine").limit(k).select(["id", "source", "_distance"])
            if share:
                found = found.where(f"share_{share} = true", prefilter=True)
            return found.to_arrow()["id"].to_pylist()

        return search

    def close(self) -> None:
        pass


class Faiss:
    """faiss's HNSW over float32, in memory; a filter is the ids that pass, as an IDSelectorBitmap."""

    def __init__(self, folder: Path):
        pass

    def build(self, vectors: np.ndarray) -> float:
        import faiss

        self.index = faiss.IndexHNSWFlat(vectors.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
        self.index.hnsw.efConstruction = 128
        began = time.perf_counter()
        self.index.add(vectors)
        took = time.perf_counter() - began
        self.passing = {share: np.packbits(np.arange(len(vectors)) % share == 1, bitorder="little") for share in SHARES}
        return took

    def size(self) -> int:
        import faiss

        return len(faiss.serialize_index(self.index))

    def connect(self) -> Search:
        import faiss

        def search(query: np.ndarray, k: int, share: int) -> list[int]:
            more = {"sel": faiss.IDSelectorBitmap(self.passing[share])} if share else {}
            parameters = faiss.SearchParametersHNSW(efSearch=256, **more)
            _, ids = self.index.search(query[None], k, params=parameters)
            return [int(id) for id in ids[0] if id >= 0]

        return search

    def close(self) -> None:
        del self.index


class Usearch:
    """usearch's HNSW over bfloat16, in memory; its Python has no filter: the 1000 nearest are looked through."""

    def __init__(self, folder: Path):
        pass

    def build(self, vectors: np.ndarray) -> float:
        from usearch.index import Index

        self.index = Index(
            ndim=vectors.shape[1], metric="cos", dtype="bf16", connectivity=32, expansion_add=128, expansion_search=256
        )
        began = time.perf_counter()
        self.index.add(np.arange(len(vectors)), vectors)
        return time.perf_counter() - began

    def size(self) -> int:
        return self.index.serialized_length

    def connect(self) -> Search:
        def search(query: np.ndarray, k: int, share: int) -> list[int]:
            ids = [int(id) for id in self.index.search(query, 1000 if share else k).keys]
            return [id for id in ids if id % share == 1][:k] if share else ids

        return search

    def close(self) -> None:
        del self.index


class PgVector:
    """PostgreSQL with pgvector's HNSW, a B-tree on what is filtered by."""

    def __init__(self, folder: Path):
        import pgserver

        self.folder = folder / "postgres"
        self.server = pgserver.get_server(self.folder)

    def _connect(self):
        import psycopg
        from pgvector.psycopg import register_vector

        connection = psycopg.connect(self.server.get_uri(), autocommit=True)
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        register_vector(connection)
        return connection

    def build(self, vectors: np.ndarray) -> float:
        names = [f"share_{share}" for share in SHARES]
        connection = self._connect()
        columns = ", ".join(f"{name} boolean" for name in names)
        connection.execute(
            f"CREATE TABLE images (id bigint PRIMARY KEY, source text, {columns}, vector vector({vectors.shape[1]}))"
        )
        with connection.cursor().copy("COPY images FROM STDIN WITH (FORMAT BINARY)") as copy:
            copy.set_types(["int8", "text", *["bool"] * len(names), "vector"])
            for number, vector in enumerate(vectors):
                copy.write_row((number, str(number), *(number % share == 1 for share in SHARES), vector))
        connection.execute("SET maintenance_work_mem = '8GB'")
        connection.execute(f"SET max_parallel_maintenance_workers = {os.cpu_count()}")
        began = time.perf_counter()
        connection.execute("CREATE INDEX ON images USING hnsw (vector vector_cosine_ops) WITH (m = 16, ef_construction = 64)")
        for name in names:
            connection.execute(f"CREATE INDEX ON images ({name}) WHERE {name}")
        connection.execute("ANALYZE images")
        return time.perf_counter() - began

    def size(self) -> int:
        return self._connect().execute("SELECT pg_total_relation_size('images')").fetchone()[0]

    def connect(self) -> Search:
        connection = self._connect()
        connection.execute("SET hnsw.ef_search = 256")

        def search(query: np.ndarray, k: int, share: int) -> list[int]:
            where = f"WHERE share_{share}" if share else ""
            statement = f"SELECT id, source, vector <=> %s AS distance FROM images {where} ORDER BY distance LIMIT {k}"
            return [row[0] for row in connection.execute(statement, (query,)).fetchall()]

        return search

    def close(self) -> None:
        self.server.cleanup()
        shutil.rmtree(self.folder, ignore_errors=True)


SYSTEMS = {"vdx-udf": Ours, "LanceDB": Lance, "faiss": Faiss, "usearch": Usearch, "pgvector": PgVector}
