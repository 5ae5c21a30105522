"""Training samples: every frame of every episode, normalised and ready to be put in a batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from agent.training.cache import TrainingCache
from agent.training.data import Episode, tasks_of
from agent.training.loss import Prefix
from shared.policy.rtc import in_episode, target_indices


@dataclass(frozen=True)
class Batch:
    """Rows of a training step.

    prefix: of image and language tokens; state (B, 6) and action (B, chunk, 6) normalised float32; in_episode
    (B, chunk) bool, False for actions past the episode's end.
    """

    prefix: Prefix
    state: torch.Tensor
    action: torch.Tensor
    in_episode: torch.Tensor


class Samples:
    """Frames of `episodes`, numbered through.

    Args:
        episodes: At least one.
        cache: Gives their prefixes.
        preprocess: From `load_processors` with the version's normalisation, never the node's own.
        chunk: Actions per chunk.
        device: Where batches go.

    Attributes:
        tasks: The distinct instructions, sorted.
        task: (frames,) int64, index of each frame's task in `tasks`; on the CPU.
        in_episode: (frames, chunk) bool, False for actions past the episode's end; on the CPU.
    """

    def __init__(
        self,
        episodes: Sequence[Episode],
        cache: TrainingCache,
        preprocess: Any,
        chunk: int,
        device: str = "cpu",
    ) -> None:
        self.tasks = tasks_of(episodes)
        self._cache, self._device = cache, device
        self._frames = [(episode, frame) for episode in episodes for frame in range(len(episode))]
        states, actions, tasks, inside = [], [], [], []
        for episode in episodes:
            state, action = _normalise(episode, preprocess)
            targets = [target_indices(frame, len(episode), chunk) for frame in range(len(episode))]
            states.append(state)
            actions.append(action[torch.tensor(targets)])
            tasks.append(torch.full((len(episode),), self.tasks.index(episode.task)))
            inside += [in_episode(frame, len(episode), chunk) for frame in range(len(episode))]
        self._state, self._action = torch.cat(states), torch.cat(actions)
        self.task, self.in_episode = torch.cat(tasks), torch.tensor(inside)

    def __len__(self) -> int:
        return len(self._state)

    def batch(self, rows: Sequence[int] | np.ndarray) -> Batch:
        """The frames numbered `rows`."""
        index = torch.as_tensor(np.asarray(rows))
        prefix = self._cache.prefix([self._frames[row] for row in rows])
        parts = (self._state[index], self._action[index], self.in_episode[index])
        return Batch(prefix, *(part.to(self._device) for part in parts))

    def spread(self, task: str, count: int) -> list[int]:
        """At most `count` frames of `task`, evenly spaced: a fixed subset to measure a loss on."""
        frames = torch.nonzero(self.task == self.tasks.index(task)).flatten()
        picks = np.unique(np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int))
        return [int(frames[pick]) for pick in picks]


def rows_of_step(frames: int, batch: int, step: int, seed: int) -> np.ndarray:
    """Frames of one step: consecutive pieces of seeded shuffles, each shuffle a pass over all frames.

    A pure function of its arguments, so that there is no sampler state to save.
    """
    position = np.arange(step * batch, (step + 1) * batch)
    epochs = position // frames
    rows = np.empty(batch, np.int64)
    for epoch in np.unique(epochs):
        order = np.random.Generator(np.random.PCG64([seed, int(epoch)])).permutation(frames)
        chosen = epochs == epoch
        rows[chosen] = order[position[chosen] % frames]
    return rows


def _normalise(episode: Episode, preprocess: Any) -> tuple[torch.Tensor, torch.Tensor]:
    done = preprocess(
        {
            "observation.state": torch.from_numpy(episode.state),
            "action": torch.from_numpy(episode.action),
            "task": [episode.task] * len(episode),
        }
    )
    return done["observation.state"].float().cpu(), done["action"].float().cpu()
