"""A vision-language model small enough for one CPU core, built from the same classes as the real one.

LeRobot's SmolVLA reads its VLM's configuration, tokenizer and image processor from a folder; with
`load_vlm_weights=False` that is all it needs. So a tiny `SmolVLMConfig` and a tokenizer that knows only this
table's sentences make a SmolVLA of 1.1 M parameters, and no line of LeRobot is patched.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    SmolVLMConfig,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
)
from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor

from sim.plant import IMAGE_SIZE
from sim.tasks import COLORS, VERBS, Task

HIDDEN = 96
TEXT_LAYERS = 4
_SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<image>",
    "<fake_token_around_image>",
    "<global-img>",
    "<end_of_utterance>",
)
_INITIALIZER_RANGE = 0.06  # the default, 0.02, is for models ten times as wide and hardly learns here
TEXT = {
    "hidden_size": HIDDEN,
    "intermediate_size": 256,
    "num_hidden_layers": TEXT_LAYERS,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "initializer_range": _INITIALIZER_RANGE,
}
VISION = {
    "hidden_size": HIDDEN,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "image_size": IMAGE_SIZE,
    "patch_size": 12,
    "initializer_range": _INITIALIZER_RANGE,
}
SCALE = 2
IMAGE_TOKENS = 16  # (96 / 12 patches / SCALE) squared


def sentences() -> list[str]:
    """Every sentence the table knows, pushes included: the tokenizer's corpus."""
    return [Task(verb, color).text for verb in VERBS for color in COLORS]


def write_vlm(
    folder: Path, text: Mapping[str, Any] = TEXT, vision: Mapping[str, Any] = VISION, scale: int = SCALE
) -> None:
    """Write configuration, tokenizer and processor; no weights.

    Args:
        text, vision: Settings of the text model and the vision tower; without a vocabulary's size, it is the
            tokenizer's.
        scale: Side of the square of patches that become one image token.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _train_tokenizer()
    pad, side = tokenizer.pad_token_id, vision["image_size"]
    settings = {
        "image_token_id": tokenizer.convert_tokens_to_ids("<image>"),
        "scale_factor": scale,
        "pad_token_id": pad,
        "text_config": {"model_type": "llama", "vocab_size": len(tokenizer), "pad_token_id": pad, **text},
        "vision_config": dict(vision),
    }
    SmolVLMConfig(**settings).save_pretrained(folder)
    edge = {"longest_edge": side}
    SmolVLMProcessor(
        SmolVLMImageProcessor(size=edge, max_image_size=edge),
        tokenizer,
        SmolVLMVideoProcessor(size=edge, max_image_size=edge),
        image_seq_len=(side // vision["patch_size"] // scale) ** 2,
    ).save_pretrained(folder)


def _train_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=list(_SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences() * 10, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<end_of_utterance>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        additional_special_tokens=["<image>", "<fake_token_around_image>", "<global-img>"],
        extra_special_tokens={
            "image_token": "<image>",
            "fake_image_token": "<fake_token_around_image>",
            "global_image_token": "<global-img>",
            "end_of_utterance_token": "<end_of_utterance>",
        },
    )
