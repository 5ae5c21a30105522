"""One optimiser step, and everything that decides it: adapter tensors, AdamW's moments, samples, noise.

Steps are numbered through a node's life (`Progress.first_step` + `step`); frames, noise and times of a step
are functions of (recipe seed, node, number). So a resumed update is the same, bit for bit, as an
uninterrupted one.
"""

import hashlib
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
from peft import PeftModel

from agent.training.checkpoint import State
from agent.training.loss import draw, flow_matching_loss, sample_actions
from agent.training.samples import Batch, Samples, rows_of_step
from shared.errors import ArmfleetError
from shared.policy.adapter import adapter_parameters
from shared.recipe import Recipe

EVAL_FRAMES = 32
"""Frames per task on which the held-out loss is measured after each update."""
ACTION_FRAMES = 8
"""Frames per task on which actions are sampled; one costs about as much as ten for the loss (`num_steps`)."""


class Loop:
    """Trains the adapter of `model` in place.

    Args:
        policy: The policy inside `model`.
        model: `policy` with the recipe's adapter.
        recipe: Batch size, draws, decay, clipping.
        node: Part of every seed, so that two nodes do not draw the same noise.
    """

    def __init__(self, policy: SmolVLAPolicy, model: PeftModel, recipe: Recipe, node: str) -> None:
        self._policy, self._recipe, self._node = policy, recipe, node
        self._named = adapter_parameters(model)
        for parameter in self._named.values():
            parameter.requires_grad_(True)
        self._optimiser = torch.optim.AdamW(
            self._named.values(),
            lr=recipe.learning_rate,
            betas=recipe.betas,
            weight_decay=recipe.weight_decay,
        )

    def set_learning_rate(self, learning_rate: float) -> None:
        """Constant within an update; the schedule over rounds is the coordinator's."""
        for group in self._optimiser.param_groups:
            group["lr"] = learning_rate

    def step(self, samples: Samples, number: int) -> tuple[dict[str, tuple[float, int]], float]:
        """Do step `number`.

        Returns:
            (sum of losses, frames) per task; L2 norm of the gradient before clipping.

        Raises:
            ArmfleetError: the loss is not finite; the parameters are unchanged.
        """
        seed = self._recipe.seed
        rows = rows_of_step(len(samples), self._recipe.batch, number, seed_of(seed, self._node, "rows"))
        batch = samples.batch(rows)
        losses = self._loss(batch, self._recipe.draws, seed_of(seed, self._node, number))
        loss = losses.mean()
        if not torch.isfinite(loss):
            raise ArmfleetError(
                f"training diverged: the loss of step {number} is {loss.item()}",
                kept="the version this update started from",
                do="lower the recipe's learning rate",
            )
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self._named.values(), self._recipe.clip)
        self._optimiser.step()
        return _per_task(samples.tasks, batch.task, losses.detach()), float(norm)

    @torch.no_grad()
    def evaluate(self, samples: Samples) -> dict[str, float]:
        """Mean loss per task on a fixed subset of `samples` with fixed noise: comparable between updates."""
        result = {}
        for task in samples.tasks:
            losses = self._loss(samples.batch(samples.spread(task, EVAL_FRAMES)), 1, seed=0)
            result[task] = float(losses.mean())
        return result

    @torch.no_grad()
    def action_errors(self, samples: Samples) -> dict[str, float]:
        """Mean squared error per task of sampled actions against the recorded ones, over the whole chunk, in
        normalised units, on a fixed subset of `samples` from fixed noise: comparable between updates."""
        result = {}
        for task in samples.tasks:
            batch = samples.batch(samples.spread(task, ACTION_FRAMES))
            noise = self._draw(len(batch.state), 1, seed=0)[0][:, 0].to(batch.state.device)
            actions = sample_actions(self._policy, batch.prefix, batch.state, noise)
            result[task] = float(F.mse_loss(actions, batch.action))
        return result

    def state(self) -> State:
        """Live parameters and AdamW's moments; moments only after the first step."""
        groups: State = {"now": {name: p.detach() for name, p in self._named.items()}}
        for name, parameter in self._named.items():
            moments = self._optimiser.state.get(parameter)
            if moments:
                groups.setdefault("mean", {})[name] = moments["exp_avg"]
                groups.setdefault("square", {})[name] = moments["exp_avg_sq"]
                groups.setdefault("count", {})[name] = moments["step"]
        return groups

    def restore(self, state: Mapping[str, Mapping[str, torch.Tensor]], parameters: bool) -> bool:
        """Take over moments, and parameters too if asked.

        Returns:
            False when the state belongs to another adapter shape; then nothing was changed.
        """
        shapes = {name: p.shape for name, p in self._named.items()}
        for group in ("now", "mean", "square"):
            if group in state and {n: t.shape for n, t in state[group].items()} != shapes:
                return False
        with torch.no_grad():
            for name, parameter in self._named.items():
                if parameters:
                    parameter.copy_(state["now"][name])
                if "mean" in state:
                    self._optimiser.state[parameter] = {
                        "step": state["count"][name].clone(),
                        "exp_avg": state["mean"][name].to(parameter.device, copy=True),
                        "exp_avg_sq": state["square"][name].to(parameter.device, copy=True),
                    }
        return True

    def _loss(self, batch: Batch, draws: int, seed: int) -> torch.Tensor:
        noise, time = self._draw(len(batch.state), draws, seed)
        device = batch.state.device
        return flow_matching_loss(
            self._policy, batch.prefix, batch.state, batch.action, noise.to(device), time.to(device)
        )

    def _draw(self, rows: int, draws: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return draw(self._policy, rows, draws)


def seed_of(*parts: object) -> int:
    """A 63-bit seed from anything printable."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little") >> 1


def _per_task(tasks: list[str], index: torch.Tensor, losses: torch.Tensor) -> dict[str, tuple[float, int]]:
    found = {}
    for task in index.unique().tolist():
        mine = losses[index == task]
        found[tasks[task]] = (float(mine.sum()), len(mine))
    return found
