"""A PaliGemma small enough to ship: its architecture, its tokenizer and its processor.

`finetune/assets/tiny` holds weights of this architecture, pre-trained by `pretrain.py`. It loads with plain
`from_pretrained`; the package does not know that the model is tiny.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import (
    Gemma2Config,
    GemmaConfig,
    GemmaTokenizer,
    PaliGemmaConfig,
    PaliGemmaProcessor,
    SiglipVisionConfig,
)
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

IMAGE_SIZE = 56
PATCH_SIZE = 7
IMAGE_TOKEN = "<image>"
LOC_TOKENS = tuple(f"<loc{index:04d}>" for index in range(1024))
SEG_TOKENS = tuple(f"<seg{index:03d}>" for index in range(128))

_SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
_BYTES = tuple(f"<0x{value:02X}>" for value in range(256))
_BPE_SIZE = 1150
_EMBEDDING_MULTIPLE = 64
# Near 1 / sqrt(width): with Gemma's 0.02 a decoder this narrow hardly passes the picture on.
_INITIALIZER_RANGE = 0.08

_PROMPTS = (
    "answer en which letter is this?",
    "answer en which digit is this?",
    "answer en which shape is this?",
    "answer en what colour is the circle?",
    "answer en what color is the square?",
    "answer en how many shapes are there?",
    "answer en is there a red circle in the picture?",
    "answer en where is the blue triangle?",
    "answer en what is written in the image?",
    "caption en",
    "describe en",
    "ocr",
    "detect circle ; square ; triangle",
    "segment the green star",
    "question answering: what number does the photo show?",
    "a red circle and a blue square",
    "a white letter above a black cross, left of two yellow rings",
    "three orange diamonds, four purple hearts and five pink arrows",
    "yes", "no", "none", "unknown", "unanswerable",
)  # fmt: skip

_WORDS = """
a about above across after again against all almost along already also always among an and another
any are area around as ask at away back bad bag ball bar base be beach bear because bed been before
begin behind being below bench beside best better between big bike bird black blue boat body book
both bottle bottom bowl box boy bread bridge bright bring brown building bus but by cake call camera
can car card care carry case cat cell chair change child children circle city class clean clear
clock close clothes cloud coat coffee cold color colour come computer corner could count country
couple court cow cross crowd cup curve cut dark day deep desk detail diamond different digit dinner
dirt dish do does dog door down draw dress drink drive each early earth easy eat edge egg eight
eleven empty end enough even evening ever every example eye face fact fall family far farm fast
father feel fence few field figure fill find fine fire first fish five floor flower fly food foot
for form found four frame fresh friend from front fruit full game garden get girl give glass go
gold good grass gray green grey ground group grow hair half hand hang happy hard has hat have he
head heart heavy height help her here high hill him his hold home horse hot hour house how hundred
ice idea if image in inside into is it its jacket jump just keep kind kitchen kite knife know lake
lamp land language large last late laugh leaf learn leave left leg less let letter level light like
line list little live long look lot low machine main make man many map mark may mean meat medium
meter middle might mile milk mind mirror model money month moon more morning most mother mountain
mouth move much music must name near need never new next night nine no not nothing now number object
ocean of off often old on once one only open or orange orchid other our out outside oven over own
page paint pair paper park part pass people person phone photo picture piece pink pizza place plane
plant plate play player point pole pose possible print pull purple push put question quick quiet
rain read ready red report rest ride right ring river road rock roof room round row run sand sandwich
say scene school sea seat second see seven shadow shape shirt shoe shop short should show side sign
silver sink sit six size skate ski skin sky sleep slice slow small smile snow so sofa soft some
soon sound space sports square stand star start station stay step stick still stone stop store story
straight street string strong stuff such sun surf table take talk tall teddy tell ten tennis text
than that the their them then there these they thick thin thing think this those three through
time to together toilet tool top toward towel town toy track traffic train travel tree triangle
truck try turn twelve twenty two umbrella under until up upon use van vase very view village visible
wait walk wall want warm wash watch water wave way we wear week weight well were what wheel when
where which while white who whole why wide wild will wind window wine winter wish with within
without woman wood word work world would write year yellow yes yet you young your zebra zero zoo
"""

TINY_CORPUS: tuple[str, ...] = (
    *_PROMPTS * 20,
    *(f"{word} {word}" for word in _WORDS.split()),
    *(f"a {colour} {shape} and a {shape}"
      for colour in ("red", "green", "blue", "yellow", "white", "orange", "purple", "grey")
      for shape in ("circle", "square", "triangle", "cross", "star", "ring", "diamond", "letter")),
)  # fmt: skip


def _train_bpe(corpus: Sequence[str]) -> Tokenizer:
    """Train byte-fallback BPE pieces that start at most one word and never hold two digits.

    Gemma's own tokenizer merges over the whole normalised string, so its vocabulary alone decides
    where a piece ends. Splitting before the training keeps words, digits and newlines apart.

    Args:
        corpus: The lines to learn the pieces from.

    Returns:
        The trained tokenizer; only its vocabulary and merges are of use.
    """
    printable = [chr(code) for code in range(33, 127)]
    trainer = BpeTrainer(
        vocab_size=_BPE_SIZE,
        min_frequency=2,
        show_progress=False,
        special_tokens=[*_SPECIAL, *_BYTES],
        initial_alphabet=[],
        limit_alphabet=1000,
    )
    tokenizer = Tokenizer(BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    pattern = Regex(r"▁?[A-Za-z]+|[0-9]|▁?;|▁|[^A-Za-z0-9▁]")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(pattern, behavior="isolated")
    alphabet = [*printable, "▁", "\n", "\t"]
    tokenizer.train_from_iterator(_repeat(corpus, alphabet), trainer)
    return tokenizer


def _repeat(corpus: Sequence[str], alphabet: Sequence[str]) -> Iterator[str]:
    """Yield the corpus, and every character of the alphabet often enough to be kept.

    Args:
        corpus: The lines of the corpus.
        alphabet: The characters that must become pieces.

    Yields:
        The lines to train on.
    """
    yield from corpus
    for character in alphabet:
        yield character
        yield character


def build_tiny_tokenizer(corpus: Sequence[str] = TINY_CORPUS) -> GemmaTokenizer:
    """Build a Gemma tokenizer with PaliGemma's location, segmentation and image tokens.

    Args:
        corpus: The lines to learn the word pieces from.

    Returns:
        A tokenizer that can encode any text, with the ids of Gemma's special tokens.
    """
    model = _train_bpe(corpus).to_str()
    vocabulary, merges = _read_bpe(model)
    tokenizer = GemmaTokenizer(vocab=vocabulary, merges=merges, add_bos_token=True, add_eos_token=False)
    tokenizer.add_tokens([*LOC_TOKENS, *SEG_TOKENS])
    image_token = AddedToken(IMAGE_TOKEN, normalized=False, special=True)
    tokenizer.add_special_tokens({"additional_special_tokens": [image_token]})
    return tokenizer


def _read_bpe(serialised: str) -> tuple[dict[str, int], Any]:
    """Read the vocabulary and the merges out of a serialised tokenizer.

    Args:
        serialised: The JSON text of a BPE tokenizer.

    Returns:
        The piece ids, and the merges in order.
    """
    model = json.loads(serialised)["model"]
    return dict(model["vocab"]), [(left, right) for left, right in model["merges"]]


def build_tiny_processor(
    tokenizer: GemmaTokenizer | None = None, image_size: int = IMAGE_SIZE
) -> PaliGemmaProcessor:
    """Build the processor: the tokenizer and the PIL image processor (no torchvision).

    Args:
        tokenizer: The tokenizer to use; built from the default corpus if omitted.
        image_size: The side of the square pictures, a multiple of the patch size.

    Returns:
        A processor that `AutoProcessor` loads again after `save_pretrained`.
    """
    image_processor = SiglipImageProcessorPil(
        size={"height": image_size, "width": image_size},
        image_seq_length=(image_size // PATCH_SIZE) ** 2,
    )
    tokenizer = build_tiny_tokenizer() if tokenizer is None else tokenizer
    untyped: Any = PaliGemmaProcessor
    processor: PaliGemmaProcessor = untyped(image_processor=image_processor, tokenizer=tokenizer)
    return processor


def _text_config(
    text: Literal["gemma", "gemma2"], vocab_size: int, hidden_size: int, num_layers: int
) -> GemmaConfig | Gemma2Config:
    """Configure the decoder.

    Args:
        text: The family of the decoder.
        vocab_size: The number of embedding rows.
        hidden_size: The width.
        num_layers: The depth.

    Returns:
        The decoder's configuration.
    """
    head_dim = hidden_size // 4
    if text == "gemma":
        return GemmaConfig(
            vocab_size=vocab_size,
            hidden_size=hidden_size,
            intermediate_size=3 * hidden_size,
            num_hidden_layers=num_layers,
            num_attention_heads=4,
            num_key_value_heads=1,
            head_dim=head_dim,
            initializer_range=_INITIALIZER_RANGE,
        )
    return Gemma2Config(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=3 * hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=head_dim,
        initializer_range=_INITIALIZER_RANGE,
        query_pre_attn_scalar=head_dim,
        sliding_window=4096,
        attn_logit_softcapping=50.0,
        final_logit_softcapping=30.0,
    )


def build_tiny_config(
    text: Literal["gemma", "gemma2"] = "gemma",
    image_size: int = IMAGE_SIZE,
    hidden_size: int = 128,
    num_layers: int = 4,
    tokenizer: GemmaTokenizer | None = None,
) -> PaliGemmaConfig:
    """Configure a tiny PaliGemma 1 (`gemma`) or PaliGemma 2 (`gemma2`).

    Args:
        text: The family of the decoder.
        image_size: The side of the square pictures, a multiple of the patch size.
        hidden_size: The width of the decoder and of the vision tower, a multiple of 64 so that
            4-bit blocks do not cross rows.
        num_layers: The depth of the decoder and of the vision tower.
        tokenizer: The tokenizer whose ids the model uses; built from the default corpus if omitted.

    Returns:
        The configuration; `PaliGemmaForConditionalGeneration(config)` gives random weights.
    """
    if image_size % PATCH_SIZE:
        raise ValueError(f"image_size {image_size} is not a multiple of the patch, {PATCH_SIZE}")
    tokenizer = build_tiny_tokenizer() if tokenizer is None else tokenizer
    rows = -(-len(tokenizer) // _EMBEDDING_MULTIPLE) * _EMBEDDING_MULTIPLE
    vision = SiglipVisionConfig(
        hidden_size=hidden_size,
        intermediate_size=4 * hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        image_size=image_size,
        patch_size=PATCH_SIZE,
        vision_use_head=False,
    )
    untyped: Any = PaliGemmaConfig
    config: PaliGemmaConfig = untyped(
        vision_config=vision,
        text_config=_text_config(text, rows, hidden_size, num_layers),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        vocab_size=rows,
        projection_dim=hidden_size,
        hidden_size=hidden_size,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return config
