"""Every default of the product, once, with its reason. XML and documentation are compared with this file by tests."""

import os

DEFAULT_MODEL = "ViT-B-32/openai"  # the model behind the published data sets
MODEL_ENVIRONMENT = "VDX_MODEL"


def model_name() -> str:
    """The model to use where none is named: `VDX_MODEL`, else the default."""
    return os.environ.get(MODEL_ENVIRONMENT) or DEFAULT_MODEL


# What weights_hash must be, where it is known (`make tiny` prints its own); `vdx install --weights-hash` states it for
# another model.
WEIGHTS_HASHES = {"vdx-tiny": "5bdd028bbde5c240"}

# What the model computes in. `auto` is the first of int8, bfloat16 (on a GPU float16) and float32 that the device has
# instructions for and that passes the gate.
PRECISION = "auto"
# The gate: the least cosine to float32 that a precision must keep, over texts and pictures made for it (encoder/gate.py)
# when a model is loaded first, and over the bundled model's pictures in the tests; below it the next slower one computes, and
# the log and encoder_info() say so.
PARITY = {"float32": 0.99999, "bfloat16": 0.999, "float16": 0.999, "int8": 0.999}
# And the least share of each input's nearest 10 among the gate's that must be the same, on average: texts of scripts that a
# model does not know are all alike to it, and bfloat16 itself keeps 0.98 of the bundled model's.
OVERLAP = 0.9
PRECISIONS = ("auto", *PARITY)

# Encoder service. A batch is what one model pass takes, counted in text tokens and in pictures. On a CPU a larger one
# gains a few percent and delays every other query; a GPU needs more to be busy.
BATCH = {"cpu": {"text": 1_024, "image": 16}, "cuda": {"text": 16_384, "image": 256}}
# A chunk is the part of a block that is answered at once; it ends after this many inputs not seen before, so that an
# answer follows within seconds, or at these sizes where the cache answers.
CHUNK_TEXTS = 64
CHUNK_IMAGES = 32
CHUNK_REGIONS = 2  # pictures cut into regions: as many as 500 inputs of the model
CHUNK_ROWS = 1_024  # 2 MiB of answer at 512 dimensions, which a worker holds whole
CHUNK_BYTES = 8 << 20
CHUNKS_AHEAD = 4  # chunks of one connection in work at a time: bounds memory, keeps the model busy
# How long torch's threads spin at the end of each operation before they sleep, in turns of GNU OpenMP's loop. Its own default
# takes a fifth of the processor from the threads that decode pictures, and makes a text ten times slower beside other programs
# that want all cores (0.45 s where this takes 0.05); much less slows a single text.
SPIN_COUNT = "2000"
READERS = 16  # threads that read paths and fetch URLs, so that a slow one holds up no other
READ_AHEAD = 32  # pictures read from paths or URLs and not decoded yet: bounds memory
CACHE_ENTRIES = 65_536  # embeddings kept, least recently used out first: 128 MiB at 512 dimensions
IDLE_SECONDS = 1_800  # a service that a worker started stops after this long without a request
LABEL_SETS = 64  # sets of labels whose embeddings are kept for classify, least recently used out first
# A JPEG is decoded at the smallest size that keeps this many times the pixels a side that the model sees, which changes
# them by less than 1/255 on average; 1 is faster still and changes more, 0 decodes all of every picture.
JPEG_SCALE = 2
MAX_ASPECT = 1_000  # longer side over shorter: resizing the shorter one to 224 pixels would blow the longer up
MAX_IMAGE_BYTES = 256 << 20
MAX_PIXELS = 178_956_970  # where Pillow draws the line; 2.5 GB while it is decoded and resized
LARGE_PIXELS = 20_000_000  # pictures larger than this are decoded one at a time, and in a process that can be ended
MAX_DECODER_BYTES = 4 << 30  # address space of such a process: no file makes it take more
# What a decoder may work on one picture: a progressive JPEG can hold thousands of scans, each a pass over all its pixels.
MAX_SCANS = 100
DECODE_SECONDS = 20  # then its process is ended, or the decoder asks for more of the file in vain
# Thumbnails: the least and the most pixels of the longer side, and what the loaders and the explorer keep (a cell of its grid
# is 168 pixels high, 1.5 times that on a dense screen).
THUMBNAIL_SIDES = (16, 1_024)
THUMBNAIL_SIDE = 256
THUMBNAIL_QUALITY = 80  # of JPEG; WebP saves 8 to 25 % of the bytes and takes 14 to 41 times as long to write
THUMBNAIL_BACKGROUND = "white"  # what shows through a transparent picture
FACTS_SIDE = 256  # pixels of the longer side that a picture's facts are measured on: about what a model sees of it
# Regions of a picture: the finest level that may be asked for (85 of a square picture), and the most of one picture: level 2 of
# one of 10 to 1 has 255.
REGION_LEVELS = 3
MAX_REGIONS = 256
MAX_PROFILE_BYTES = 4 << 20  # a longer colour profile is passed over; those of printing presses have 3 MB
URL_SECONDS = 20  # for one picture, redirects included
URL_REDIRECTS = 5
# Letters of a text that the tokeniser gets to see. CLIP reads 77 tokens, of 32 bytes at most; a single word of this many
# random letters costs open_clip's tokeniser 1.5 s, and the time grows with the square.
MAX_TEXT = 8_192

# Worker.
START_SECONDS = 90  # wait for a service that loads its model: 5 to 10 s from disk, minutes at a first download

# Pools of worker processes, as functions/*.xml state them.
POOL = {
    "pool_size": 64,  # at most, of each function; 11 MB each, started when needed: beyond it small queries wait for large ones
    "max_command_execution_time": 60,
    "command_read_timeout": 120_000,
    "command_write_timeout": 120_000,
    "command_termination_timeout": 2,
    "stderr_reaction": "log_last",
    "check_exit_code": 1,
    "lifetime": 0,
    "command_pipe_capacity": 1_048_576,
}
# command_read_timeout of functions one row of which may take minutes: a map of 25,000 vectors took 67 s on a busy machine.
LONG_READ_TIMEOUT = 900_000

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
# Quantization, M and ef_construction of the vector index on `images`; `vdx install --index` states another. M = 64 with
# 256, the published LAION index's, takes 2.4 times as long to build and finds .002 more of the nearest 10
# (docs/clusters.md). b1, a bit a number, finds half of CLIP's neighbours at best: refused.
INDEX = "bf16,32,128"
QUANTIZATIONS = ("f32", "f16", "bf16", "i8")
SCHEMA_VERSION = 6  # the last step of sql/02_upgrade.sql
