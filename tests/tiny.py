"""Small real encoders with random weights: what `bundle create` reads, without a download."""

from __future__ import annotations

from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from app.bundling import Recipe, create
from app.encoders.pretrained import ImageOptions, TitleOptions

WIDTH = 32
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


def image_encoder(folder: Path, architecture: str = "mobilenetv3_small_050") -> Path:
    """Writes a timm state dict, named after its architecture."""
    torch.manual_seed(0)
    file = folder / f"{architecture}.safetensors"
    save_file(timm.create_model(architecture, pretrained=False).state_dict(), file)
    return file


def bundle(folder: Path, prefix: str = "") -> Path:
    """Makes a bundle of both towers, with colours and words in 8 bits; returns its folder."""
    recipe = Recipe(
        str(image_encoder(folder)), str(title_encoder(folder)), 0.4,
        ImageOptions("gem", colours=True, size=64), TitleOptions(prefix, 32, int8_words=True),
    )  # fmt: skip
    return create(recipe, folder / "one").folder


def title_encoder(folder: Path) -> Path:
    """Writes a Hugging Face folder: a one-layer BERT, and a Unigram tokenizer of syllables."""
    torch.manual_seed(0)
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    syllables = (
        ["\u2581", *LETTERS]
        + [a + b for a in LETTERS for b in LETTERS]
        + [f"\u2581{a}{b}" for a in LETTERS for b in LETTERS]
    )
    pieces = [(piece, 0.0) for piece in special] + [(piece, -1.0 - n / 100) for n, piece in enumerate(syllables)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    target = folder / "tiny-title-encoder"
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names)  # type: ignore[no-untyped-call]
    fast.save_pretrained(target)
    config = BertConfig(
        vocab_size=len(pieces), hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=64, pad_token_id=1,
    )  # fmt: skip
    BertModel(config).save_pretrained(target)
    return target
