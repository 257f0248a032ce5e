"""The random weights of `make bench`, as the peers load them: open_clip's own state dict, and the same as transformers' CLIPModel."""

import json
import re
from pathlib import Path

import open_clip
import torch
from transformers import CLIPConfig, CLIPModel

from tests.benchmarks.peer_programs import ARCHITECTURE, TRANSFORMERS, WEIGHTS

# Names of open_clip's state dict and what transformers calls them, one after the other.
NAMES = (
    (r"^visual\.transformer\.resblocks", "vision_model.encoder.layers"),
    (r"^transformer\.resblocks", "text_model.encoder.layers"),
    (r"\.ln_([12])\.", r".layer_norm\1."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    (r"\.attn\.", ".self_attn."),
    (r"^visual\.class_embedding$", "vision_model.embeddings.class_embedding"),
    (r"^visual\.positional_embedding$", "vision_model.embeddings.position_embedding.weight"),
    (r"^visual\.conv1\.", "vision_model.embeddings.patch_embedding."),
    (r"^visual\.ln_pre\.", "vision_model.pre_layrnorm."),  # transformers' spelling
    (r"^visual\.ln_post\.", "vision_model.post_layernorm."),
    (r"^token_embedding\.", "text_model.embeddings.token_embedding."),
    (r"^positional_embedding$", "text_model.embeddings.position_embedding.weight"),
    (r"^ln_final\.", "text_model.final_layer_norm."),
)


def write_weights(folder: Path) -> None:
    """Writes `WEIGHTS` and the folder `TRANSFORMERS`, with tokenizer and preprocessing, into the folder."""
    with torch.random.fork_rng():
        torch.manual_seed(0)  # as ViT-B-32/random and peer.py
        model = open_clip.create_model(ARCHITECTURE, pretrained=None)
    torch.save(model.state_dict(), folder / WEIGHTS)
    config = CLIPConfig(
        text_config={"hidden_act": "gelu", "bos_token_id": 49406, "eos_token_id": 49407},
        vision_config={"hidden_act": "gelu"},
        projection_dim=512,
    )
    other = CLIPModel(config)
    other.load_state_dict(_renamed(model.state_dict()))
    other.save_pretrained(folder / TRANSFORMERS)
    _write_processor(folder / TRANSFORMERS)


def _renamed(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    found = {}
    for name, value in weights.items():
        if name in ("text_projection", "visual.proj"):
            found[{"text_projection": "text_projection.weight", "visual.proj": "visual_projection.weight"}[name]] = (
                value.T.contiguous()
            )
            continue
        for pattern, replacement in NAMES:
            name = re.sub(pattern, replacement, name)
        if "in_proj_" in name:  # queries, keys and values in one
            for part, rows in zip("qkv", value.chunk(3), strict=True):
                found[name.replace("in_proj_", f"{part}_proj.")] = rows
        else:
            found[name] = value
    return found


def _write_processor(folder: Path) -> None:
    """The files of OpenAI's clip-vit-base-patch32, which transformers reads in every version."""
    tokenizer = open_clip.get_tokenizer(ARCHITECTURE)
    start, end = "<|startoftext|>", "<|endoftext|>"
    named = dict(zip(tokenizer.all_special_ids, (start, end), strict=True))  # which open_clip calls otherwise
    files = {
        "vocab.json": {named.get(number, word): number for word, number in tokenizer.encoder.items()},
        "tokenizer_config.json": {
            "tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True, "unk_token": end,
            "bos_token": start, "eos_token": end, "pad_token": end,
        },
        "preprocessor_config.json": {
            "image_processor_type": "CLIPImageProcessor", "processor_class": "CLIPProcessor", "do_resize": True,
            "size": {"shortest_edge": 224}, "resample": 3, "do_center_crop": True, "crop_size": {"height": 224, "width": 224},
            "do_rescale": True, "do_normalize": True, "do_convert_rgb": True,
            "image_mean": open_clip.OPENAI_DATASET_MEAN, "image_std": open_clip.OPENAI_DATASET_STD,
        },
    }  # fmt: skip
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    merges = "\n".join(" ".join(pair) for pair in tokenizer.bpe_ranks)
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
