"""Towers from pretrained weights: any timm name, Hugging Face name or local folder, turned into a bundle's files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, cast

import timm
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoModel, AutoTokenizer

from app.core.spec import ImageSpec, Preprocessing, TitleSpec
from app.encoders import colours
from app.encoders.quantise import Precision, stored_as
from app.encoders.vocabulary import keep_likeliest, lower_case
from app.errors import InvalidInput

IMAGE_WEIGHTS, TITLE_WEIGHTS = "image.safetensors", "title.safetensors"
TITLE_CONFIG, TOKENIZER = "title_config.json", "tokenizer.json"
Framing = Literal["crop", "pad", "stretch"]


@dataclass(frozen=True, slots=True)
class ImageOptions:
    """How the image tower is used: pooling, colours, framing, input side in pixels (None: the backbone's own)."""

    pooling: Literal["avg", "gem"] = "gem"
    gem_power: float = 3.0
    colours: bool = False
    framing: Framing = "crop"
    size: int | None = None


@dataclass(frozen=True, slots=True)
class TitleOptions:
    """How the title tower is used.

    Attributes:
        prefix: put before every title (`"query: "` for the E5 family).
        max_tokens: longer titles are cut.
        vocabulary: keep only so many likeliest pieces of a Unigram vocabulary; None keeps all.
        scripts: with `vocabulary`, keep words of these scripts only, see `app.encoders.vocabulary`.
        int8_words: store the word embeddings in 8 bits, one scale per word; the tower computes in float32 either way.
        layers: keep only these of the transformer's layers, from 0; None keeps all.
        lower_case: the tokenizer reads titles in lower case. Sellers shout, and a word in capitals falls into rare pieces.
    """

    prefix: str = ""
    max_tokens: int = 128
    vocabulary: int | None = None
    scripts: tuple[str, ...] | None = None
    int8_words: bool = False
    layers: tuple[int, ...] | None = None
    lower_case: bool = False


def origin_of(source: str | None) -> str | None:
    """Returns what a manifest says about where a tower came from: a folder's name, not a path of the machine."""
    return Path(source).stem if source and Path(source).exists() else source


def image_tower(source: str, options: ImageOptions, out: Path, precision: Precision) -> ImageSpec:
    """Writes the image tower's weights into `out`.

    Args:
        source: a timm name (downloaded), a timm folder (`config.json` and weights), or a `.safetensors` file that is
            named after its timm architecture.
        options: how it is used.
        out: the bundle's folder.
        precision: how its weights are stored.

    Raises:
        InvalidInput: nothing of that name can be loaded.
    """
    backbone, architecture = _load_backbone(source)
    config = timm.data.resolve_data_config(model=backbone)
    preprocessing = Preprocessing(
        size=config["input_size"][-1] if options.size is None else options.size,
        framing=options.framing,
        crop_share=config["crop_pct"] if options.framing == "crop" else 1.0,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )
    save_tower(backbone, None, out / IMAGE_WEIGHTS, precision)
    features = _width(backbone, preprocessing.size) + (colours.WIDTH if options.colours else 0)
    return ImageSpec(
        architecture=architecture, weights=IMAGE_WEIGHTS, pooling=options.pooling, gem_power=options.gem_power,
        colours=options.colours or None, features=features, dim=features, projection=False, preprocessing=preprocessing,
    )  # fmt: skip


def _width(backbone: torch.nn.Module, size: int) -> int:
    """Returns the channels of a backbone's output; what timm calls `num_features` is not always that."""
    with torch.inference_mode():
        shape = tuple(backbone.eval()(torch.zeros(1, 3, size, size)).shape)
    declared = {getattr(backbone, name, None) for name in ("num_features", "head_hidden_size")}
    return int(shape[1] if len(shape) == 4 and shape[1] in declared else shape[-1])


def _load_backbone(source: str) -> tuple[torch.nn.Module, str]:
    path = Path(source)
    options: dict[str, Any] = {"num_classes": 0, "global_pool": ""}
    try:
        if path.suffix == ".safetensors":
            backbone = timm.create_model(path.stem, pretrained=False, **options)
            weights = load_file(path)
            backbone.load_state_dict({name: weights[name] for name in backbone.state_dict()})
            return backbone, path.stem
        if path.is_dir():
            if not (path / "model.safetensors").is_file():  # timm would take a pickle
                raise FileNotFoundError("no model.safetensors in it")
            backbone = timm.create_model(f"local-dir:{path}", pretrained=True, **options)
        else:
            backbone = timm.create_model(source, pretrained=True, **options)
        return backbone, str(cast("dict[str, Any]", backbone.pretrained_cfg)["architecture"])
    except Exception as error:  # timm raises whatever its hub client and its registry raise
        raise InvalidInput(
            f"no image encoder can be loaded from '{source}' ({_one_line(error)}): give a timm name, "
            "a timm folder with model.safetensors, or a .safetensors file named after its timm architecture."
        ) from error


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def title_tower(source: str, options: TitleOptions, out: Path, precision: Precision) -> TitleSpec:
    """Writes the title tower's weights, configuration and tokenizer into `out`.

    Args:
        source: a Hugging Face name (downloaded) or a local folder; code that it may bring is never run.
        options: how it is used.
        out: the bundle's folder.
        precision: how its weights are stored.

    Raises:
        InvalidInput: nothing of that name can be loaded, or it has no fast tokenizer.
    """
    # it would report the pooler, which is dropped below, as missing
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        backbone = AutoModel.from_pretrained(source, trust_remote_code=False, use_safetensors=True)
        fast = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        tokenizer = Tokenizer.from_str(fast.backend_tokenizer.to_str())
    except Exception as error:  # transformers raises whatever its hub client, its registry or its parsers raise
        raise InvalidInput(
            f"no title encoder can be loaded from '{source}' ({_one_line(error)}): give a Hugging Face "
            "name or a folder with config.json, model.safetensors and tokenizer.json."
        ) from error
    if options.lower_case:
        lower_case(tokenizer)
    if options.vocabulary is not None:
        tokenizer, kept = keep_likeliest(tokenizer, options.vocabulary, options.scripts)
        words = backbone.get_input_embeddings().weight.data[torch.tensor(kept)].clone()
        backbone.resize_token_embeddings(len(kept))
        backbone.get_input_embeddings().weight.data = words
    if hasattr(backbone, "pooler"):
        backbone.pooler = None
    if options.layers is not None:
        keep_layers(backbone, options.layers)
    pad = tokenizer.token_to_id(str(fast.pad_token))
    config = json.loads(backbone.config.to_json_string(use_diff=False)) | {"pad_token_id": pad}
    config.pop("_name_or_path", None)  # a path of this machine
    (out / TITLE_CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", "utf-8")
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.save(str(out / TOKENIZER), pretty=False)
    save_tower(backbone, None, out / TITLE_WEIGHTS, precision, int8_words=options.int8_words)
    features = int(backbone.config.hidden_size)
    return TitleSpec(
        config=TITLE_CONFIG, tokenizer=TOKENIZER, weights=TITLE_WEIGHTS, prefix=options.prefix,
        max_tokens=min(options.max_tokens, int(getattr(backbone.config, "max_position_embeddings", options.max_tokens))),
        pad_id=pad, features=features, dim=features, projection=False,
    )  # fmt: skip


def keep_layers(backbone: torch.nn.Module, layers: tuple[int, ...]) -> None:
    """Drops all other layers of a transformer, in place. Raises InvalidInput for layers that it does not have.

    Every second layer of a transformer is a good start for a smaller one: Sanh et al., "DistilBERT", arXiv 1910.01108.
    """
    config = cast("Any", backbone.config)
    stacks = [m for m in backbone.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == config.num_hidden_layers]
    if not stacks or not layers or any(not 0 <= one < config.num_hidden_layers for one in layers):
        raise InvalidInput(f"the title encoder has the layers 0 to {config.num_hidden_layers - 1}, not {layers}.")
    kept = [stacks[0][one] for one in sorted(set(layers))]
    del stacks[0][:]
    stacks[0].extend(kept)
    config.num_hidden_layers = len(kept)


def save_tower(
    backbone: torch.nn.Module,
    projection: torch.nn.Linear | None,
    file: Path,
    precision: Precision,
    int8_words: bool = False,
    others: Mapping[str, torch.Tensor] = MappingProxyType({}),
) -> None:
    """Writes a tower's weights, and `others` by name, under the names that `ImageTower` and `TitleTower` load."""
    parts = {f"backbone.{name}": tensor.detach() for name, tensor in backbone.state_dict().items()}
    if projection is not None:
        parts |= {f"projection.{name}": tensor.detach() for name, tensor in projection.state_dict().items()}
    narrow = []
    if int8_words:
        table = cast("Any", backbone).get_input_embeddings().weight
        narrow.append(next(f"backbone.{name}" for name, tensor in backbone.named_parameters() if tensor is table))
    save_file(stored_as(parts | dict(others), precision, narrow), file)
