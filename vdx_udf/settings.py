"""Every default of the product, once, with its reason. XML and README are compared with this file by tests."""

import os

DEFAULT_MODEL = "ViT-B-32/openai"  # the model behind the published data sets
MODEL_ENVIRONMENT = "VDX_MODEL"


def model_name() -> str:
    """The model to use where none is named: `VDX_MODEL`, else the default."""
    return os.environ.get(MODEL_ENVIRONMENT) or DEFAULT_MODEL


PRECISION = "float32"  # equals open_clip's own vectors; the other trades a cosine of 0.999 or more for speed
PRECISIONS = ("float32", "bfloat16")

# Encoder service. A batch is what one model pass takes; a larger one gains little on a CPU and delays other queries.
TEXT_BATCH = 64
IMAGE_BATCH = 32
# A chunk is the part of a block that is answered at once; it ends after one batch of inputs not seen before, so that
# an answer follows within seconds, or at these sizes where the cache answers.
CHUNK_ROWS = 1_024  # 2 MiB of answer at 512 dimensions, which a worker holds whole
CHUNK_BYTES = 8 << 20
CHUNKS_AHEAD = 4  # chunks of one connection in work at a time: bounds memory, keeps the model busy
CACHE_ENTRIES = 65_536  # embeddings kept, least recently used out first: 128 MiB at 512 dimensions
IDLE_SECONDS = 1_800  # a service that a worker started stops after this long without a request
MAX_ASPECT = 1_000  # longer side over shorter: resizing the shorter one to 224 pixels would blow the longer up
MAX_IMAGE_BYTES = 256 << 20
URL_SECONDS = 20  # for one picture, redirects included

# Worker.
START_SECONDS = 90  # wait for a service that loads its model: 5 to 10 s from disk, minutes at a first download

# Pools of worker processes, as functions/*.xml state them.
POOL = {
    "pool_size": 16,
    "max_command_execution_time": 60,
    "command_read_timeout": 120_000,
    "command_write_timeout": 120_000,
    "command_termination_timeout": 2,
    "stderr_reaction": "log_last",
    "check_exit_code": 1,
    "lifetime": 0,
    "command_pipe_capacity": 1_048_576,
}

# Zero-shot prompt templates: of the 80 that CLIP's authors wrote for ImageNet (OpenAI CLIP,
# notebooks/Prompt_Engineering_for_ImageNet.ipynb) those that claim nothing else of the picture. `{}` is the label.
PROMPT_TEMPLATES = (
    "a photo of a {}.",
    "a photo of the {}.",
    "a good photo of a {}.",
    "a good photo of the {}.",
    "itap of a {}.",
)

# SQL.
DIMENSION = 512  # of the default model; `vdx install` writes another model's own into the SQL files
HNSW_M = 64
HNSW_EF_CONSTRUCTION = 256  # both as the published LAION index
