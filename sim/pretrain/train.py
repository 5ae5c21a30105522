"""The training loop: all weights, a fixed amount of processor time, a cosine over it.

Processor time, not the clock: on a busy computer the same training takes longer instead of getting worse.
"""

import math
import time
from collections.abc import Callable, Iterator

import torch
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
from torch import Tensor
from transformers import AutoTokenizer

from sim.pretrain.data import Samples
from sim.pretrain.loss import Batch, Grounding, losses
from sim.pretrain.policy import ACTION_KEY, STATE_KEY, TOKENS, Stats
from sim.tasks import COLORS, VERBS, Task

BATCH = 32
DRAWS = 4
LEARNING_RATE = 1e-3
WARM_UP_STEPS = 100
GROUNDING_WEIGHT = 0.3
OTHER_SENTENCE_SHARE = 0.4
"""Share of a batch that gets another verb with the same colour: it teaches the words of the pushes where
their cube is, while no push action is ever shown."""


def train(
    policy: SmolVLAPolicy,
    samples: Samples,
    stats: Stats,
    seconds: float,
    seed: int,
    on_step: Callable[[int, float, float, float], None],
) -> int:
    """Train for `seconds` of processor time per thread; returns the number of steps.

    Args:
        on_step: Called with (step, share of the time spent, flow loss, grounding loss).
    """
    torch.manual_seed(seed)
    grounding = Grounding()
    parameters = [*policy.parameters(), *grounding.parameters()]
    parameters = [parameter for parameter in parameters if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, LEARNING_RATE, betas=(0.9, 0.99), weight_decay=1e-4)
    batches = _batches(samples, stats, policy.config.vlm_model_name, seed)
    policy.train()
    began, step, budget = time.process_time(), 0, seconds * torch.get_num_threads()
    while (share := (time.process_time() - began) / budget) < 1:
        step += 1
        rate = min(1.0, step / WARM_UP_STEPS) * (0.49 * (1 + math.cos(math.pi * share)) + 0.02)
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * rate
        noise = torch.randn(BATCH * DRAWS, policy.config.chunk_size, policy.config.max_action_dim)
        flow, ground = losses(
            policy,
            next(batches),
            grounding,
            noise,
            policy.model.sample_time(BATCH * DRAWS, torch.device("cpu")),
        )
        optimizer.zero_grad()
        (flow + GROUNDING_WEIGHT * ground).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        on_step(step, share, flow.item(), ground.item())
    return step


def sentence_tokens(vlm_folder: str) -> tuple[Tensor, Tensor]:
    """Tokens and mask of every sentence, (verbs, colours, 12) each, as the policy's preprocessor makes
    them."""
    tokenizer = AutoTokenizer.from_pretrained(vlm_folder)
    texts = [Task(verb, color).text + "\n" for verb in VERBS for color in COLORS]
    found = tokenizer(
        texts,
        padding="max_length",
        max_length=TOKENS,
        truncation=True,
        padding_side="right",
        return_tensors="pt",
    )
    shape = (len(VERBS), len(COLORS), TOKENS)
    return found["input_ids"].view(shape), found["attention_mask"].bool().view(shape)


def _batches(samples: Samples, stats: Stats, vlm_folder: str, seed: int) -> Iterator[Batch]:
    """Random batches without end."""
    generator = torch.Generator().manual_seed(seed)
    tokens, mask = sentence_tokens(vlm_folder)
    columns = {name: torch.from_numpy(getattr(samples, name)) for name in Samples.__dataclass_fields__}
    states = (columns["states"] - stats[STATE_KEY]["mean"]) / stats[STATE_KEY]["std"]
    actions = (columns["actions"] - stats[ACTION_KEY]["mean"]) / stats[ACTION_KEY]["std"]
    while True:
        rows = torch.randint(0, len(samples), (BATCH,), generator=generator)
        other = torch.rand(BATCH, generator=generator) < OTHER_SENTENCE_SHARE
        verbs = torch.randint(0, len(VERBS), (BATCH,), generator=generator)
        verbs, colors = torch.where(other, verbs, columns["verbs"][rows]), columns["colors"][rows]
        yield Batch(
            columns["images"][rows].float() / 255,
            states[rows],
            actions[rows],
            tokens[verbs, colors],
            mask[verbs, colors],
            (~other).float(),
            columns["targets"][rows],
            columns["cubes"][rows],
        )
