"""The peer: UDFs in the shape that ClickHouse's documentation publishes, one row at a time in TabSeparated.

ClickHouse runs this file as `peer_encode_text` and `peer_encode_image` with the same weights as ours; each process of a
pool loads the model itself.
"""

import sys

import open_clip
import torch
from PIL import Image

with torch.random.fork_rng():
    torch.manual_seed(0)
    model, _, preprocess = open_clip.create_model_and_transforms("ViT-B-32", pretrained=None)
model.eval()
tokenizer = open_clip.get_tokenizer("ViT-B-32")


@torch.no_grad()
def encode(function: str, value: str) -> list[float]:
    if "text" in function:
        features = model.encode_text(tokenizer([value]))
    else:
        features = model.encode_image(preprocess(Image.open(value)).unsqueeze(0))
    return (features / features.norm(dim=-1, keepdim=True))[0].tolist()


for line in sys.stdin:
    print(encode(sys.argv[1], line.rstrip("\n")))
    sys.stdout.flush()
