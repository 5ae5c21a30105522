"""Fixtures that several rooms share."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MUJOCO_GL", "egl")
os.environ.setdefault("OMP_NUM_THREADS", "1")

SPECIALS = {
    "image_token": "<image>",
    "fake_image_token": "<fake_token_around_image>",
    "global_image_token": "<global-img>",
    "end_of_utterance_token": "<end_of_utterance>",
}


def write_vlm(folder: Path, vocabulary: int | None, text: dict, vision: dict, scale: int) -> None:
    """A VLM's configuration, processor and a throwaway tokenizer: what SmolVLA reads from the hub."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import (
        PreTrainedTokenizerFast,
        SmolVLMConfig,
        SmolVLMImageProcessor,
        SmolVLMProcessor,
        SmolVLMVideoProcessor,
    )

    folder.mkdir(parents=True)
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    sentences = [
        f"{verb} the {color} cube {end}"
        for verb in ("push", "pull", "touch", "hover above")
        for color in ("red", "green", "blue", "yellow")
        for end in ("to the left", "to the right", "forward", "back")
    ]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>", *SPECIALS.values()],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(sentences, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<|im_start|>",
        eos_token="<end_of_utterance>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        extra_special_tokens=SPECIALS,
    )
    pad, side = tokenizer.pad_token_id, vision["image_size"]
    text = {"model_type": "llama", "pad_token_id": pad, "vocab_size": vocabulary or len(tokenizer), **text}
    SmolVLMConfig(
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=scale,
        pad_token_id=pad,
        text_config=text,
        vision_config=vision,
    ).save_pretrained(folder)
    size = {"longest_edge": side}
    SmolVLMProcessor(
        SmolVLMImageProcessor(size=size, max_image_size=size),
        tokenizer,
        SmolVLMVideoProcessor(size=size, max_image_size=size),
        image_seq_len=(side // vision["patch_size"] // scale) ** 2,
    ).save_pretrained(folder)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base policy folder with random weights: LeRobot's own SmolVLA classes at 0.6 M parameters.

    One camera `front` 96x96, state and action of 6, chunk 8, like the shipped `sim/base`.
    """
    import torch
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.policies.factory import make_pre_post_processors
    from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
    from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy

    folder = tmp_path_factory.mktemp("base") / "tiny"
    write_vlm(
        folder / "vlm",
        None,
        {
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 32,
            "initializer_range": 0.06,
        },
        {
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 96,
            "patch_size": 12,
            "initializer_range": 0.06,
        },
        scale=2,
    )
    config = SmolVLAConfig(
        vlm_model_name=str(folder / "vlm"),
        load_vlm_weights=False,
        resize_imgs_with_padding=(96, 96),
        chunk_size=8,
        n_action_steps=4,
        max_state_dim=8,
        max_action_dim=8,
        num_vlm_layers=2,
        tokenizer_max_length=12,
        num_steps=5,
        device="cpu",
        push_to_hub=False,
        input_features={
            "observation.images.front": PolicyFeature(FeatureType.VISUAL, (3, 96, 96)),
            "observation.state": PolicyFeature(FeatureType.STATE, (6,)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (6,))},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        policy = SmolVLAPolicy(config)
    policy.save_pretrained(folder)
    stats = {
        key: {"mean": torch.linspace(-20, 20, 6), "std": torch.linspace(10, 30, 6)}
        for key in ("observation.state", "action")
    }
    for processor in make_pre_post_processors(config, dataset_stats=stats):
        processor.save_pretrained(folder)
    return folder
