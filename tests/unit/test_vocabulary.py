from __future__ import annotations

import json
import random
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from app.encoders.vocabulary import keep_likeliest, lower_case
from app.errors import InvalidInput

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
LETTERS = "abcdefghijklmnopqrstuvwxyzäßжшक画"
PIECES = 1000


def words() -> list[str]:
    rng = random.Random(5)
    made = {"".join(rng.choices(LETTERS[:20], k=rng.randint(2, 7))) for _ in range(3200)}
    return sorted(made)[:3000]


def unigram(processor: Any = None, unknown: int = 3) -> Tokenizer:
    """Specials first and `<mask>` last, as in XLM-RoBERTa; words by falling likelihood; single characters unlikely."""
    pieces = [(token, 0.0) for token in SPECIAL]
    pieces += [("▁" + word if n % 2 else word, -5 - n / 128) for n, word in enumerate(words())]
    pieces += [("▁", -3.0)] + [(letter, -60.0) for letter in LETTERS] + [("▁" + letter, -60.0) for letter in LETTERS]
    tokenizer = Tokenizer(models.Unigram([*pieces, ("<mask>", 0.0)], unk_id=unknown))
    tokenizer.normalizer = normalizers.Replace(Regex(" {2,}"), " ")
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([*SPECIAL, "<mask>"])
    if processor is None:
        mask = tokenizer.token_to_id("<mask>")
        processor = processors.TemplateProcessing(
            "<s> $A </s> <mask>", special_tokens=[("<s>", 0), ("</s>", 2), ("<mask>", mask)]
        )
    tokenizer.post_processor = processor
    return tokenizer


WHOLE = unigram()
CUT, KEPT = keep_likeliest(WHOLE, PIECES)


def test_the_vocabulary_is_cut() -> None:
    assert PIECES <= CUT.get_vocab_size() < WHOLE.get_vocab_size()
    assert CUT.get_vocab_size() == len(KEPT)


def test_the_old_ids_are_returned_in_the_new_order() -> None:
    assert [WHOLE.id_to_token(old) for old in KEPT] == [CUT.id_to_token(new) for new in range(len(KEPT))]


def test_special_tokens_are_kept_and_are_still_special() -> None:
    for token in [*SPECIAL, "<mask>"]:
        assert CUT.token_to_id(token) is not None
    assert CUT.token_to_id("<mask>") == len(KEPT) - 1
    assert CUT.encode("<mask>", add_special_tokens=False).tokens == ["<mask>"]
    assert CUT.decode(CUT.encode("ab").ids) == "ab"


def test_the_template_adds_the_new_ids() -> None:
    encoded = CUT.encode("ab")
    assert [encoded.tokens[0], *encoded.tokens[-2:]] == ["<s>", "</s>", "<mask>"]
    assert [encoded.ids[0], *encoded.ids[-2:]] == [CUT.token_to_id(token) for token in ("<s>", "</s>", "<mask>")]


def test_a_template_inside_a_sequence_is_followed() -> None:
    mask = WHOLE.token_to_id("<mask>")
    template = processors.TemplateProcessing("$A <mask>", special_tokens=[("<mask>", mask)])
    cut, _ = keep_likeliest(unigram(processors.Sequence([template])), PIECES)
    assert cut.encode("ab").ids[-1] == cut.token_to_id("<mask>")


def test_the_likeliest_pieces_and_all_single_characters_are_kept() -> None:
    kept = set(CUT.get_vocab())
    for letter in LETTERS:
        assert {letter, "▁" + letter} <= kept
    long = [
        piece for piece, score in json.loads(WHOLE.to_str())["model"]["vocab"] if score < 0 and len(piece.lstrip("▁")) > 1
    ]
    assert [piece in kept for piece in long] == sorted([piece in kept for piece in long], reverse=True)
    assert sum(piece in kept for piece in long) > PIECES - 10


@pytest.mark.parametrize("text", [*words()[:5], *words()[-5:], "жшж क画 ßä", "abc def  ghi", " ".join(words()[::100])])
def test_no_text_becomes_unreadable(text: str) -> None:
    encoded = CUT.encode(text, add_special_tokens=False)
    assert "<unk>" not in encoded.tokens
    assert CUT.decode(encoded.ids) == WHOLE.decode(WHOLE.encode(text, add_special_tokens=False).ids)


def test_a_text_of_kept_pieces_is_cut_up_as_before() -> None:
    for piece, score in json.loads(CUT.to_str())["model"]["vocab"]:
        if score < -5 and len(piece) > 3 and piece.startswith("▁"):
            old = WHOLE.encode(piece[1:], add_special_tokens=False)
            new = CUT.encode(piece[1:], add_special_tokens=False)
            assert [KEPT[n] for n in new.ids] == old.ids
            assert new.tokens == old.tokens


def test_what_the_tokenizer_does_not_know_is_still_unknown() -> None:
    assert CUT.encode("☃", add_special_tokens=False).ids[-1] == CUT.token_to_id("<unk>")
    last = WHOLE.get_vocab_size() - 1
    cut, kept = keep_likeliest(unigram(unknown=last), PIECES)
    assert cut.encode("☃", add_special_tokens=False).ids[-1] == len(kept) - 1


def test_the_normalizer_and_the_pre_tokenizer_stay() -> None:
    old, new = json.loads(WHOLE.to_str()), json.loads(CUT.to_str())
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        assert old[part] == new[part]


def test_a_vocabulary_that_is_small_enough_is_kept_whole() -> None:
    cut, kept = keep_likeliest(WHOLE, 100_000)
    assert kept == list(range(WHOLE.get_vocab_size()))
    assert cut.to_str() == WHOLE.to_str()


def test_a_vocabulary_that_is_too_small_to_read_anything_is_refused() -> None:
    with pytest.raises(InvalidInput, match="at least 1000"):
        keep_likeliest(WHOLE, 999)


def test_other_kinds_of_tokenizers_are_refused() -> None:
    with pytest.raises(InvalidInput, match="WordLevel"):
        keep_likeliest(Tokenizer(models.WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>")), PIECES)
    with pytest.raises(InvalidInput, match="BertProcessing"):
        keep_likeliest(unigram(processors.BertProcessing(("</s>", 2), ("<s>", 0))), PIECES)


def test_a_tokenizer_with_a_token_added_to_the_vocabulary_is_cut_or_refused() -> None:
    grown = unigram()
    grown.add_tokens(["brandnew"])
    try:
        cut, kept = keep_likeliest(grown, PIECES)
    except InvalidInput:
        return
    assert [grown.id_to_token(old) for old in kept] == [cut.id_to_token(new) for new in range(len(kept))]


def test_a_tokenizer_reads_in_lower_case_what_it_has_normalised() -> None:
    tokenizer = unigram()
    lower_case(tokenizer)
    shouted, said = tokenizer.encode("ABC   Äß Ж"), unigram().encode("abc äß ж")
    assert shouted.ids == said.ids
    assert WHOLE.encode("ABC").ids != said.ids
    assert tokenizer.encode("<mask>", add_special_tokens=False).tokens == ["<mask>"]


def test_a_tokenizer_without_normaliser_reads_in_lower_case_too() -> None:
    tokenizer = unigram()
    tokenizer.normalizer = None
    lower_case(tokenizer)
    assert tokenizer.encode("AbC").ids == WHOLE.encode("abc").ids


def test_lower_case_survives_cutting_the_vocabulary() -> None:
    tokenizer = unigram()
    lower_case(tokenizer)
    cut, _ = keep_likeliest(tokenizer, PIECES)
    assert cut.encode("AbC").ids == CUT.encode("abc").ids
