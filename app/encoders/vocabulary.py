"""Cutting the vocabulary of a multilingual transformer: most of such a model is a table of pieces.

multilingual-e5-small keeps 96 of its 118 million parameters in 250,002 word embeddings, most of them for words that no
shop's title holds. Unigram tokenizers (Kudo, arXiv 1804.10959) store the log-probability of every piece, so the
likeliest can be kept; with every single character kept too, no text becomes unreadable, it only becomes longer.
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Sequence

from tokenizers import Tokenizer, normalizers

from app.errors import InvalidInput

_WORD_START = "\u2581"
_SMALL_SCRIPT = 10  # a wanted script with less than a tenth of the pieces is kept whole


def script_of(piece: str) -> str:
    """Returns the script of a piece's letters in lower case, such as `latin`, `cjk`, `thai`; `common` without letters."""
    letters = (c for c in piece if c.isalpha() or unicodedata.category(c) in ("Mn", "Mc"))
    names = {unicodedata.name(c, "unknown").removeprefix("FULLWIDTH ").split(" ")[0].lower() for c in letters}
    names -= {"combining", "modifier"}
    return "common" if not names else names.pop() if len(names) == 1 else "mixed"


def keep_likeliest(tokenizer: Tokenizer, pieces: int, scripts: Sequence[str] | None = None) -> tuple[Tokenizer, list[int]]:
    """Returns the tokenizer with special tokens, all single characters and the likeliest pieces.

    Args:
        tokenizer: with a Unigram model.
        pieces: how many of the likeliest pieces to keep.
        scripts: keep whole words of these scripts only (see `script_of`; digits and signs always count as wanted).
            Of a wanted script with few pieces all are kept: its words are rare in any mixture of languages.

    Returns:
        The smaller tokenizer, and the old ids of its pieces in their new order.

    Raises:
        InvalidInput: the tokenizer is not a Unigram one, or `pieces` is below 1000.
    """
    if pieces < 1000:
        raise InvalidInput(f"a vocabulary of {pieces} pieces reads nothing: keep at least 1000.")
    description = json.loads(tokenizer.to_str())
    model = description["model"]
    if model.get("type") != "Unigram":
        raise InvalidInput(f"only Unigram vocabularies can be cut, this one is {model.get('type')}: leave --vocabulary out.")
    outside = [token["content"] for token in description["added_tokens"] if token["id"] >= len(model["vocab"])]
    if outside or model.get("unk_id") is None:
        raise InvalidInput("a tokenizer with added tokens outside its vocabulary cannot be cut: leave --vocabulary out.")
    vocabulary: list[tuple[str, float]] = [(piece, score) for piece, score in model["vocab"]]
    special = {token["id"] for token in description["added_tokens"]} | {model["unk_id"]}
    single = {n for n, (piece, _) in enumerate(vocabulary) if len(piece.lstrip(_WORD_START)) <= 1}
    wanted = _wanted([piece for piece, _ in vocabulary], pieces, scripts)
    ranked = sorted(range(len(vocabulary)), key=lambda n: (wanted[n] != "whole", -vocabulary[n][1]))
    likely = [n for n in ranked if wanted[n]][:pieces]
    kept = sorted(special | single | set(likely))
    new_id = {old: new for new, old in enumerate(kept)}
    model["vocab"] = [vocabulary[n] for n in kept]
    model["unk_id"] = new_id[model["unk_id"]]
    for token in description["added_tokens"]:
        token["id"] = new_id[token["id"]]
    for token in _template_tokens(description.get("post_processor")):
        token["ids"] = [new_id[old] for old in token["ids"]]
    return Tokenizer.from_str(json.dumps(description, ensure_ascii=False)), kept


def lower_case(tokenizer: Tokenizer) -> None:
    """Lets a tokenizer read everything in lower case, in place, after what it does to a text already."""
    before = [] if tokenizer.normalizer is None else [tokenizer.normalizer]
    tokenizer.normalizer = normalizers.Sequence([*before, normalizers.Lowercase()])


def _wanted(vocabulary: Sequence[str], pieces: int, scripts: Sequence[str] | None) -> list[str]:
    """Returns for each piece `whole` (keep first), `yes`, or an empty text."""
    if scripts is None:
        return ["yes"] * len(vocabulary)
    found = [script_of(piece) for piece in vocabulary]
    counts = Counter(found)
    unknown = set(scripts) - counts.keys()
    if unknown:
        raise InvalidInput(
            f"the vocabulary has no pieces in {', '.join(sorted(unknown))}: it has {', '.join(sorted(counts))}."
        )
    small = {script for script in scripts if counts[script] * _SMALL_SCRIPT < pieces}
    allowed = {*scripts, "common", "mixed"}
    return ["whole" if one in small else "yes" if one in allowed else "" for one in found]


def _template_tokens(post_processor: dict | None) -> list[dict]:  # type: ignore[type-arg]
    if post_processor is None:
        return []
    if post_processor["type"] == "TemplateProcessing":
        return list(post_processor["special_tokens"].values())
    if post_processor["type"] == "Sequence":
        return [token for part in post_processor["processors"] for token in _template_tokens(part)]
    raise InvalidInput(f"a tokenizer with a {post_processor['type']} post-processor cannot be cut: leave --vocabulary out.")
