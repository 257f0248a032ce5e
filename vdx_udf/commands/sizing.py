"""What a number of pictures needs of a cluster: `python -m vdx_udf.commands.sizing` prints the tables of docs/clusters.md.

A model of a few measured figures (shards.json, search.json and speed.json of tests/benchmarks/results; a test compares) and two
stated assumptions: the index of a shard is kept in memory whole, and cores add up. Vectors of 512.
"""

from dataclasses import dataclass
from math import ceil, log2

from vdx_udf import settings
from vdx_udf.encoder.regions import pyramid

# Measured: bytes a row on disk, and of the index there, which is compressed.
ROW_BYTES = 2_064
INDEX_BYTES = 1_228
# Indexes built and searched in one run: seconds, recall@10, and recall@10 with four times as many compared exactly.
INDEXES = {
    "bf16,64,256": (76.0, 0.997, 1.0),
    "bf16,32,128": (31.8, 0.995, 0.998),
    "bf16,16,64": (15.5, 0.985, 0.988),
    "i8,64,256": (63.0, 0.92, 0.998),
    "i8,32,128": (27.6, 0.92, 0.998),
}
# Rows that one core adds to a graph a second, at two numbers of rows a part. Time a row is taken to grow with their logarithm.
BUILD_RATES = ((25_000, 1_437), (100_000, 1_053))
# Pictures that one core embeds a second: ViT-B/32 in bfloat16, JPEGs of 640x480 read and stored.
EMBED_RATE = 20

# A node, as people rent them.
CORES = 16
MEMORY = 64 << 30
INDEX_SHARE = 0.6  # of the memory, for the index; the rest is the server's, the encoder's and the page cache's
MOST_PART_ROWS = 70_000_000  # ClickHouse merges up to 150 GB into one part, by default


@dataclass(frozen=True)
class Needs:
    """For a number of pictures, without replicas. Hours are of all nodes working at once."""

    pictures: int
    disk_bytes: int
    index_memory: int
    nodes: int
    build_hours: float
    embed_hours: float
    graphs: int  # that a search looks through on each node


def index_memory(index: str) -> int:
    """Bytes a row in memory of an index as settings.INDEX says it: the quantized vector, and 2 M links of 4 bytes
    (usearch's base layer; ClickHouse, "Approximate vector search").
    """
    quantization, links, _ = index.split(",")
    return settings.DIMENSION * {"bf16": 2, "i8": 1}[quantization] + 2 * int(links) * 4


def build_rate(rows: int) -> float:
    """Rows a second that one core adds to a graph of so many rows."""
    (few, fast), (many, slow) = BUILD_RATES
    seconds = 1 / fast + (1 / slow - 1 / fast) * log2(rows / few) / log2(many / few)
    return 1 / max(seconds, 1 / (2 * fast))


def needs(pictures: int, index: str = settings.INDEX) -> Needs:
    memory = pictures * index_memory(index)
    nodes = max(1, ceil(memory / (MEMORY * INDEX_SHARE)))
    shard = ceil(pictures / nodes)
    graphs = ceil(shard / MOST_PART_ROWS)
    return Needs(
        pictures,
        pictures * (ROW_BYTES + INDEX_BYTES),
        memory,
        nodes,
        INDEXES[index][0] / INDEXES[settings.INDEX][0] * shard / (build_rate(shard // graphs) * CORES) / 3600,
        shard / (EMBED_RATE * CORES) / 3600,
        graphs,
    )


def table() -> str:
    """The table of docs/clusters.md."""
    lines = [
        "| pictures | vectors and index on disk | index in memory | nodes | index built in | embedded on CPUs in |",
        "|---|---|---|---|---|---|",
    ]
    for each in map(needs, (1_000_000, 100_000_000, 10_000_000_000)):
        lines.append(
            f"| {each.pictures:,} | {_bytes(each.disk_bytes)} | {_bytes(each.index_memory)} | {each.nodes:,}"
            f" | {_hours(each.build_hours)} | {_hours(each.embed_hours)} |"
        )
    return "\n".join(lines) + "\n"


def indexes_table() -> str:
    """The table of docs/clusters.md for 100,000,000 pictures by index."""
    lines = [
        "| `--index` | index in memory | nodes | core hours to build it | recall@10 | with rescoring |",
        "|---|---|---|---|---|---|",
    ]
    for index, (_, recall, rescored) in INDEXES.items():
        each = needs(100_000_000, index)
        hours = each.build_hours * each.nodes * CORES
        lines.append(
            f"| `{index}` | {_bytes(each.index_memory)} | {each.nodes:,} | {hours:,.0f} | {recall:.3f} | {rescored:.3f} |"
        )
    return "\n".join(lines) + "\n"


def regions_table() -> str:
    """The table of docs/clusters.md for the regions of 1,000,000 pictures of 4 to 3, by levels."""
    lines = [
        "| `--regions` | parts each | vectors and index on disk | index in memory | nodes | index built in | embedded in |",
        "|---|---|---|---|---|---|---|",
    ]
    for levels in range(1, settings.REGION_LEVELS + 1):
        parts = 1 + sum(len(level.corners) for level in pyramid(3_000, 4_000, levels, 224))
        each = needs(1_000_000 * parts)
        lines.append(
            f"| {levels} | {parts} | {_bytes(each.disk_bytes)} | {_bytes(each.index_memory)} | {each.nodes}"
            f" | {_hours(each.build_hours)} | {_hours(each.embed_hours)} |"
        )
    return "\n".join(lines) + "\n"


def _bytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count < 1e12 else f"{count / 1e12:,.1f} TB"


def _hours(hours: float) -> str:
    return f"{hours * 60:,.0f} min" if hours < 1 else f"{hours:,.1f} h"


if __name__ == "__main__":
    print(table(), indexes_table(), regions_table(), sep="\n")
