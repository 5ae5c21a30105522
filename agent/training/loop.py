"""One optimiser step, and everything that decides it: adapter tensors, moments, samples, noise.

Steps are numbered through a node's life (`Progress.first_step` + `step`); frames, noise and times of a step
are functions of (recipe seed, node, number). So a resumed update is the same, bit for bit, as an
uninterrupted one.
"""

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
from peft import PeftModel

from agent.training.checkpoint import Progress, State
from agent.training.loss import draw, draw_given, flow_matching_loss, sample_actions
from agent.training.micro_batch import MicroBatch
from agent.training.optimiser import MOMENTS, make_optimiser
from agent.training.precision import MixedPrecision, ScalerState
from agent.training.samples import Samples, rows_of_step
from shared.errors import ArmfleetError
from shared.policy.adapter import adapter_parameters
from shared.recipe import Recipe

EVAL_FRAMES = 32
"""Frames per task on which the held-out loss is measured after each update."""
ACTION_FRAMES = 8
"""Frames per task on which actions are sampled; one costs about as much as ten for the loss (`num_steps`)."""
MICRO_BATCH = "[training] micro_batch"


class DivergedError(ArmfleetError):
    """The loss or its gradient is no number any more: going on from there leads nowhere.

    Args:
        what: Which of the two, of which step, and what it is.
    """

    def __init__(self, what: str) -> None:
        super().__init__(
            f"training diverged: {what}",
            kept="the version this update started from",
            do="lower the recipe's learning rate",
        )


class Loop:
    """Trains the adapter of `model` in place, in float32 and a whole batch at once until `begin` says
    otherwise.

    Args:
        policy: The policy inside `model`.
        model: `policy` with the recipe's adapter.
        recipe: Batch size, draws, masking, delay, proximal term, decay, clipping.
        node: Part of every seed, so that two nodes do not draw the same noise.
    """

    def __init__(self, policy: SmolVLAPolicy, model: PeftModel, recipe: Recipe, node: str) -> None:
        self._policy, self._recipe, self._node = policy, recipe, node
        self._named = adapter_parameters(model)
        for parameter in self._named.values():
            parameter.requires_grad_(True)
        self._optimiser = make_optimiser(recipe, self._named.values())
        self._moments = MOMENTS[recipe.optimiser]
        self._device = next(iter(self._named.values())).device
        self._start: Mapping[str, torch.Tensor] = {}
        self._pieces = MicroBatch(recipe.batch, MICRO_BATCH)
        self._mixed = MixedPrecision(self._device.type, "fp32", {})

    def begin(self, progress: Progress, start: Mapping[str, torch.Tensor]) -> None:
        """Begin an update, or go on with it.

        Args:
            progress: Its learning rate, precision, loss scale and micro-batch.
            start: The adapter that the update began from: what the proximal term pulls to.
        """
        self.set_learning_rate(progress.learning_rate)
        self._start = {name: tensor.to(self._device) for name, tensor in start.items()}
        self._pieces = MicroBatch(progress.micro_batch or self._recipe.batch, MICRO_BATCH)
        self._mixed = MixedPrecision(self._device.type, progress.precision, progress.scaler)
        if progress.step == 0 and not self._recipe.keep_optimiser:
            self.forget()

    @property
    def micro_batch(self) -> int:
        """Frames that go through the policy at once; fewer than `begin` said where memory ran out."""
        return self._pieces.size

    def scaler_state(self) -> ScalerState:
        """The loss scale, for the checkpoint."""
        return self._mixed.state()

    def set_learning_rate(self, learning_rate: float) -> None:
        """Constant within an update; the schedule over rounds is the coordinator's."""
        for group in self._optimiser.param_groups:
            group["lr"] = learning_rate

    def step(self, samples: Samples, number: int) -> tuple[dict[str, tuple[float, int]], float]:
        """Do step `number`.

        Where a gradient in float16 overflows, the scaler leaves the parameters as they are.

        Returns:
            (sum of losses, frames) per task, without the proximal term; L2 norm of the gradient with it,
            before clipping.

        Raises:
            DivergedError: the loss is not finite, or the gradient although nothing is scaled.
            ArmfleetError: one frame does not fit in memory. Either leaves parameters and moments unchanged.
        """
        seed = self._recipe.seed
        rows = rows_of_step(len(samples), self._recipe.batch, number, seed_of(seed, self._node, "rows"))
        noise_seed = seed_of(seed, self._node, number)
        losses = self._pieces.run(len(rows), lambda pieces: self._backward(samples, rows, pieces, noise_seed))
        if not torch.isfinite(losses).all():
            raise DivergedError(f"the loss of step {number} is {losses.mean().item()}")
        self._mixed.scaler.unscale_(self._optimiser)
        self._pull_to_start()
        norm = torch.nn.utils.clip_grad_norm_(self._named.values(), self._recipe.clip)
        if not self._mixed.scaler.is_enabled() and not torch.isfinite(norm):
            # One such step makes parameters and moments NaN, and moments outlive the update.
            raise DivergedError(f"the gradient of step {number} has the norm {norm.item()}")
        self._mixed.scaler.step(self._optimiser)
        self._mixed.scaler.update()
        return _per_task(samples.tasks, samples.task[rows], losses), float(norm)

    @torch.no_grad()
    def evaluate(self, samples: Samples) -> dict[str, float]:
        """Mean loss per task on a fixed subset of `samples` with fixed noise: comparable between updates."""
        result = {}
        for task in samples.tasks:
            losses = self._held_out_losses(samples, samples.spread(task, EVAL_FRAMES))
            result[task] = float(losses.mean())
        return result

    @torch.no_grad()
    def action_errors(self, samples: Samples) -> dict[str, float]:
        """Mean squared error per task of sampled actions against the recorded ones, over the whole chunk, in
        normalised units, on a fixed subset of `samples` from fixed noise: comparable between updates."""
        result = {}
        for task in samples.tasks:
            rows = samples.spread(task, ACTION_FRAMES)
            noise = self._draw(len(rows), 1, seed=0)[0][:, 0]
            work = partial(self._squared_errors, samples, rows, noise)
            result[task] = float(self._pieces.run(len(rows), work).mean())
        return result

    def state(self) -> State:
        """Live parameters and the optimiser's moments; moments only after the first step."""
        groups: State = {"now": {name: p.detach() for name, p in self._named.items()}}
        for name, parameter in self._named.items():
            moments = self._optimiser.state.get(parameter)
            if moments:
                for group, key in self._moments.items():
                    groups.setdefault(group, {})[name] = moments[key]
        return groups

    def forget(self) -> None:
        """Go on without moments."""
        self._optimiser.state.clear()

    def restore(self, state: Mapping[str, Mapping[str, torch.Tensor]], parameters: bool) -> str:
        """Take over the moments, or that there are none of this optimiser, and parameters too if asked.

        Returns:
            Why not, where nothing was changed: the state belongs to another adapter shape, or what is asked
            of it holds numbers that are not finite. Else nothing.
        """
        shapes = {name: p.shape for name, p in self._named.items()}
        for group in ("now", *(self._moments.keys() - {"count"})):
            if group in state and {n: t.shape for n, t in state[group].items()} != shapes:
                return "the adapter has other modules or another rank"
        wanted = [*self._moments, "now"] if parameters else [*self._moments]
        if not all(torch.isfinite(t).all() for group in wanted for t in state.get(group, {}).values()):
            return "the checkpoint holds numbers that are not finite"
        self._optimiser.state.clear()
        with torch.no_grad():
            for name, parameter in self._named.items():
                if parameters:
                    parameter.copy_(state["now"][name])
                if self._moments.keys() <= state.keys():
                    self._optimiser.state[parameter] = {
                        key: state[group][name].to("cpu" if group == "count" else self._device, copy=True)
                        for group, key in self._moments.items()
                    }
        return ""

    def _backward(
        self, samples: Samples, rows: np.ndarray, pieces: Sequence[slice], noise_seed: int
    ) -> torch.Tensor:
        """Leave the (scaled) gradient of the batch's loss in the parameters; the rows' losses, on the CPU."""
        self._optimiser.zero_grad(set_to_none=True)
        noise, time = self._draw(len(rows), self._recipe.draws, noise_seed)
        given = self._draw_given(len(rows), noise_seed)
        weights = self._weights(samples.in_episode[rows])
        losses = []
        for piece in pieces:
            loss = self._loss(samples, rows, piece, noise, time, given)
            self._mixed.scaler.scale((loss * weights[piece]).sum()).backward()
            losses.append(loss.detach().cpu())
        return torch.cat(losses)

    def _held_out_losses(self, samples: Samples, rows: Sequence[int]) -> torch.Tensor:
        noise, time = self._draw(len(rows), 1, seed=0)

        def losses(pieces: Sequence[slice]) -> torch.Tensor:
            return torch.cat([self._loss(samples, rows, piece, noise, time) for piece in pieces])

        return self._pieces.run(len(rows), losses)

    def _squared_errors(
        self, samples: Samples, rows: Sequence[int], noise: torch.Tensor, pieces: Sequence[slice]
    ) -> torch.Tensor:
        """Of sampled actions, (B, chunk, joints)."""
        errors = []
        for piece in pieces:
            batch = samples.batch(rows[piece])
            actions = sample_actions(self._policy, batch.prefix, batch.state, noise[piece])
            errors.append(F.mse_loss(actions, batch.action, reduction="none"))
        return torch.cat(errors)

    def _loss(
        self,
        samples: Samples,
        rows: Sequence[int] | np.ndarray,
        piece: slice,
        noise: torch.Tensor,
        time: torch.Tensor,
        given: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Of the rows of one piece."""
        batch = samples.batch(rows[piece])
        mask = batch.in_episode if self._recipe.mask_padding else None
        with self._mixed.autocast():
            return flow_matching_loss(
                self._policy,
                batch.prefix,
                batch.state,
                batch.action,
                noise[piece],
                time[piece],
                mask,
                None if given is None else given[piece],
            )

    def _weights(self, in_episode: torch.Tensor) -> torch.Tensor:
        """Of the rows of a batch in its loss, (B,): alike, or by the actions that count, as LeRobot's mean
        over all of them does."""
        count = in_episode.sum(1) if self._recipe.mask_padding else torch.ones(len(in_episode))
        return (count / count.sum()).to(self._device)

    def _draw(self, rows: int, draws: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """For a whole batch, so that its pieces do not change them."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            noise, time = draw(self._policy, rows, draws)
        return noise.to(self._device), time.to(self._device)

    def _draw_given(self, rows: int, noise_seed: int) -> torch.Tensor | None:
        """How many actions each draw is given, for a whole batch; None where the recipe knows no delay."""
        if self._recipe.delay == 0:
            return None
        seed = seed_of(noise_seed, "given")
        return draw_given(rows, self._recipe.draws, self._recipe.delay, seed).to(self._device)

    def _pull_to_start(self) -> None:
        """Add the gradient of FedProx's proximal term, mu (w - w_start)."""
        if self._recipe.mu == 0:
            return
        with torch.no_grad():
            for name, parameter in self._named.items():
                if parameter.grad is not None:  # without one, the optimiser leaves it where it began
                    parameter.grad.add_(parameter - self._start[name], alpha=self._recipe.mu)


def seed_of(*parts: object) -> int:
    """A 63-bit seed from anything printable."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little") >> 1


def _per_task(tasks: list[str], index: torch.Tensor, losses: torch.Tensor) -> dict[str, tuple[float, int]]:
    found = {}
    for task in index.unique().tolist():
        mine = losses[index == task]
        found[tasks[task]] = (float(mine.sum()), len(mine))
    return found
