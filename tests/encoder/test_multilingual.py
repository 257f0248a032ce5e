"""A multilingual CLIP, as open_clip's XLM-R models are: its own tokeniser, no causal mask, mean pooling.

The published weights need a download, so the tower here is a small XLM-R with random weights and a tokeniser trained on the
sentences below; both are loaded as a person's own checkpoint would be.
"""

import json

import numpy as np
import open_clip
import pytest
import torch
import transformers

from tests.conftest import vdx
from vdx_udf.encoder.model import Clip
from vdx_udf.installer.install import install, stop_encoder
from vdx_udf.installer.layout import Layout

TEXTS = [
    "a house by the lake", "ein Haus am See", "une maison au bord du lac", "дом у озера", "湖のほとりの家", "بيت على البحيرة",
    "बगल में एक घर", "", "🏠", "ein " * 200 + "langer Text", "a", "two dogs, three cats and a very long description of what they do",
]  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    """A folder that open_clip loads as local-dir:PATH."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    folder = tmp_path_factory.mktemp("xlm")
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]  # in XLM-R's order
    trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(TEXTS * 5, trainer)
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>", pad_token="<pad>",
        unk_token="<unk>", mask_token="<mask>",
    ).save_pretrained(folder)  # fmt: skip
    transformers.XLMRobertaConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128,
        max_position_embeddings=514, pad_token_id=1, bos_token_id=0, eos_token_id=2,
    ).save_pretrained(folder)  # fmt: skip
    # As open_clip's xlm-roberta-base-ViT-B-32, but for the sizes.
    config = {
        "embed_dim": 64,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "head_width": 32},
        "text_cfg": {
            "hf_model_name": str(folder),
            "hf_tokenizer_name": str(folder),
            "hf_proj_type": "mlp",
            "hf_pooler_type": "mean_pooler",
        },
    }
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    torch.manual_seed(4)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_hf=False)
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    return f"local-dir:{folder}"


def reference(checkpoint: str, texts: list[str]) -> np.ndarray:
    model = open_clip.create_model(checkpoint).eval()
    with torch.no_grad():
        return model.encode_text(open_clip.get_tokenizer(checkpoint)(texts), normalize=True).numpy()


def test_every_language_equals_open_clip_however_texts_are_batched(checkpoint):
    clip, expected = Clip(checkpoint, "float32"), reference(checkpoint, TEXTS)
    assert clip.dimension == 64
    assert np.unique(expected.round(4), axis=0).shape[0] >= len(TEXTS) - 1  # the tower tells the texts apart
    together = clip.encode_texts(TEXTS)
    alone = np.concatenate([clip.encode_texts([text]) for text in TEXTS])
    assert (together * expected).sum(axis=1).min() > 0.99999
    assert np.abs(together - alone).max() < 1e-5


@pytest.mark.long
def test_it_works_through_sql(checkpoint, tmp_path):
    layout = Layout.embedded(tmp_path / "prefix")
    list(install(layout, checkpoint, options=("--precision", "float32")))
    try:
        answer = vdx("sql", "--prefix", layout.state, "-f", layout.sql, "--format", "JSONCompactEachRow",
                     "-q", "SELECT arrayMap(t -> encode_text(t), {t:Array(String)})",
                     "--param", "t=" + str(TEXTS[:7]))  # fmt: skip
        found = np.array(json.loads(answer.stdout)[0], np.float32)
    finally:
        stop_encoder(layout)
    assert (found * reference(checkpoint, TEXTS[:7])).sum(axis=1).min() > 0.99999
