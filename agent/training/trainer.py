"""From a version and local episodes to an update: needs no daemon.

    trainer = LocalTrainer("sim/base", Path("state/episodes"), Path("state/training"), node="station-a")
    update = trainer.train(tensors, version=3, recipe=recipe, learning_rate=2e-3)

Life of an update: once the pictures are encoded, `train` writes a checkpoint, then at most every
`checkpoint_s`, and after the last step; `deliver` puts the result where it belongs; a last checkpoint says
so and keeps the optimiser's moments, and what the codec left out, for the next update. Now and then
(`VERSION_STEPS`) the version itself is measured on the evaluation episodes, before the first step. Killed
anywhere in between, `resume` in a new process ends with the same update: same id, same bytes.
"""

import time
import uuid
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
from loguru import logger
from peft import PeftModel

from agent.episodes.leaks import LeakGuard
from agent.training import feedback
from agent.training.building import OnBuild
from agent.training.cache import TrainingCache
from agent.training.callbacks import Callbacks, Deliver, OnStep
from agent.training.checkpoint import Progress, State, VersionMeasured, load_checkpoint, save_checkpoint
from agent.training.choice import chosen
from agent.training.data import EpisodeFolder, Split
from agent.training.energy import GpuEnergy
from agent.training.loop import DivergedError, Loop
from agent.training.memory import PeakMemory
from agent.training.parameters import number_of, write_trainable
from agent.training.precision import Precision, resolve
from agent.training.samples import Samples
from agent.training.update import Measured, Update, make_update
from shared.adapters import Tensors, digest
from shared.errors import ArmfleetError
from shared.files import remove_in_progress
from shared.normalisation import Statistics
from shared.policy.adapter import adapter_parameters, add_adapter, remove_adapter, set_tensors
from shared.policy.base import load_base, load_processors
from shared.policy.digest import base_digest
from shared.policy.source import check_delay
from shared.recipe import Recipe

CHECKPOINT = "checkpoint.safetensors"
MAX_PAUSE_S = 5.0
"""Longest sleep after a step, whatever the duty cycle: a suspended machine must not count as a slow one."""


class LocalTrainer:
    """Trains updates one after another.

    Args:
        base: Folder or hub id of the base policy.
        episodes: Folder of episode folders, read again for each update; or episodes in memory.
        state_dir: Checkpoint and cache; created.
        node: Name in the update's header and part of the seeds.
        device: torch device.
        threads: torch threads; one is fastest on shared cores.
        duty_cycle: Share of time spent computing, in (0, 1]; the rest is slept after each step.
        checkpoint_s: Longest time between checkpoints.
        cache_gb: Size on disk of the cache, in 10^9 bytes.
        precision: Of matrix products; `agent.training.precision.resolve` says what "auto" is.
        micro_batch: Frames that go through the policy at once; None: the recipe's batch, as far as it fits.
        guard: What must not train besides the evaluation episodes of the folder.

    Raises:
        ArmfleetError: BASE_MISSING.
    """

    def __init__(
        self,
        base: str | Path,
        episodes: Path | Split,
        state_dir: Path,
        *,
        node: str = "local",
        device: str = "cpu",
        threads: int = 1,
        duty_cycle: float = 1.0,
        checkpoint_s: float = 30.0,
        cache_gb: float = 20.0,
        precision: Literal["auto"] | Precision = "auto",
        micro_batch: int | None = None,
        guard: LeakGuard | None = None,
    ) -> None:
        torch.set_num_threads(threads)
        remove_in_progress(state_dir)  # the trainer is killed to stop it, also in a write
        self._base, self._base_digest = base, base_digest(base)
        self._policy = load_base(base, device)
        self._preprocess, _ = load_processors(base, device)
        self._episodes = EpisodeFolder(episodes, guard) if isinstance(episodes, Path) else episodes
        self._cache = TrainingCache(
            state_dir, self._base_digest, self._policy, self._preprocess, int(cache_gb * 1e9)
        )
        self._folder, self._checkpoint = state_dir, state_dir / CHECKPOINT
        self._memory, self._energy = PeakMemory(device), GpuEnergy(device)
        self._node, self._device = node, device
        self._duty_cycle, self._checkpoint_s = duty_cycle, checkpoint_s
        self._precision, self._micro_batch = resolve(precision, device), micro_batch
        self._model: PeftModel | None = None
        self._loop: Loop | None = None
        self._recipe: Recipe | None = None
        self._samples: dict[tuple[object, ...], Samples] = {}
        self._last: tuple[Progress, State] | None = load_checkpoint(self._checkpoint)

    @property
    def policy(self) -> SmolVLAPolicy:
        """The base in memory, with the adapter in it once an update was begun."""
        return self._policy

    def unfinished(self) -> Progress | None:
        """The update that a killed process or an error left behind, if any; none that diverged."""
        progress = self._last[0] if self._last else None
        return progress if progress is not None and progress.unfinished else None

    def train(
        self,
        tensors: Tensors,
        version: int,
        recipe: Recipe,
        learning_rate: float,
        deliver: Deliver | None = None,
        on_step: OnStep | None = None,
        normalisation: Statistics | None = None,
        on_build: OnBuild | None = None,
    ) -> Update:
        """Train one update of `version`.

        Args:
            tensors: The version's adapter.
            normalisation: The version's; None: the base's own.
            deliver: Called once with the result before it counts as delivered; may be called again with the
                same update after a crash.
            on_step: Called with (step, steps, loss) after each step.
            on_build: Told of each episode while the cache is built, before the first step.

        Raises:
            ArmfleetError: no admitted training episodes, an adapter or a recipe that does not fit, or a
                diverged loss.
        """
        callbacks = Callbacks(deliver, on_step, on_build)
        return self._train(tensors, version, recipe, learning_rate, normalisation, callbacks)

    def _train(
        self,
        tensors: Tensors,
        version: int,
        recipe: Recipe,
        learning_rate: float,
        normalisation: Statistics | None,
        callbacks: Callbacks,
    ) -> Update:
        check_delay(self._base, recipe)
        split = self._split(recipe, on_build=callbacks.on_build)
        loop = self._prepare(recipe)
        set_tensors(self._required_model(), tensors)
        before = self._last[0] if self._last else None
        progress = Progress(
            update_id=uuid.uuid4().hex,
            base_digest=self._base_digest,
            base_version=version,
            recipe=recipe,
            learning_rate=learning_rate,
            normalisation=normalisation,
            episodes=[episode.digest for episode in split.train],
            prefixes=self._cache.plan(split),
            precision=self._precision,
            micro_batch=min(self._micro_batch or recipe.batch, recipe.batch),
            scaler=before.scaler if before else {},
            first_step=before.first_step + before.step if before else 0,
            version=before.version if before and before.base_digest == self._base_digest else None,
        )
        start = {name: torch.from_numpy(np.array(array, np.float32)) for name, array in tensors.items()}
        fixed: State = {"start": start, "residual": feedback.owed(self._last, progress, tensors)}
        return self._run(loop, progress, fixed, split, callbacks)

    def resume(
        self,
        deliver: Deliver | None = None,
        on_step: OnStep | None = None,
        on_build: OnBuild | None = None,
    ) -> Update:
        """Finish the update that `unfinished` names, from its checkpoint on disk.

        Where its episodes are no longer all there, the base is another one, or its numbers are not finite, it
        starts again from its version; the log says why.

        Raises:
            ArmfleetError: as `train`; also when there is nothing to resume.
        """
        callbacks = Callbacks(deliver, on_step, on_build)
        if self.unfinished() is not None:
            # What is in memory is the live adapter, which went on after the checkpoint was written.
            self._last = load_checkpoint(self._checkpoint)
        if self.unfinished() is None or self._last is None:
            raise ArmfleetError("there is no unfinished update to resume")
        progress, state = self._last
        fixed: State = {"start": state["start"], "residual": state.get("residual", {})}
        split = self._split(progress.recipe, progress.episodes, callbacks.on_build)
        by_digest = {episode.digest: episode for episode in split.train}
        loop = self._prepare(progress.recipe)
        gone = len(set(progress.episodes) - by_digest.keys())
        if progress.base_digest != self._base_digest:
            why_not = "the base policy is another one"
        elif gone:
            why_not = f"{gone} of its {len(progress.episodes)} episodes no longer train"
        else:
            why_not = loop.restore(state, parameters=True)
        if why_not:
            logger.bind(update=progress.update_id).warning("the update starts again: {}", why_not)
            return self._train(
                {name: tensor.numpy() for name, tensor in state["start"].items()},
                progress.base_version,
                progress.recipe,
                progress.learning_rate,
                progress.normalisation,
                callbacks,
            )
        split = Split(tuple(by_digest[digest] for digest in progress.episodes), split.eval)
        logger.bind(update=progress.update_id).info("resumed at step {}", progress.step)
        return self._run(loop, progress, fixed, split, callbacks)

    def _run(
        self, loop: Loop, progress: Progress, fixed: State, split: Split, callbacks: Callbacks
    ) -> Update:
        """Train, or go on training, one update; `fixed` is what stays in its checkpoints throughout: the
        version's adapter ("start") and what its codec owes from before ("residual")."""
        start = {name: tensor.numpy() for name, tensor in fixed["start"].items()}
        version_digest = digest(start, progress.normalisation)
        loop.begin(progress, fixed["start"])
        self._save(loop, progress, fixed)
        self._cache.serve(split, progress.prefixes, callbacks.on_build)
        if split.eval and progress.version_is_due(version_digest):
            progress = self._measure_version(loop, progress, split, version_digest)
            self._save(loop, progress, fixed)
        samples = self._samples_of(split, "train", progress.normalisation)
        progress = self._steps(loop, progress, fixed, samples, callbacks.on_step)
        now = {name: tensor.cpu().numpy() for name, tensor in loop.state()["now"].items()}
        wanted = feedback.with_residual({name: now[name] - start[name] for name in now}, fixed["residual"])
        examples = len(samples) // (1 + progress.recipe.augmentations)
        measured, progress = self._measured(loop, progress, split, version_digest), self._with_peak(progress)
        calibrations = {episode.calibration for episode in split.train}
        try:
            update = make_update(
                progress, self._node, version_digest, wanted, examples, measured, calibrations
            )
        except ArmfleetError:  # the change can't be encoded: it would be the same the next time
            self._abandon(loop, progress, fixed)
            raise
        residual = feedback.left_out(wanted, update.delta, progress.recipe.codec)
        if callbacks.deliver is not None:
            callbacks.deliver(update)
        self._save_delivered(loop, progress, fixed | {"residual": residual})
        return update

    def _steps(
        self, loop: Loop, progress: Progress, fixed: State, samples: Samples, on_step: OnStep | None
    ) -> Progress:
        """Do what is left of the update's steps, with a checkpoint every `checkpoint_s` and after the last.

        Raises:
            ArmfleetError: as `Loop.step`; an update that diverged is abandoned.
        """
        steps, saved = progress.recipe.steps, time.monotonic()
        self._energy.begin()
        while progress.step < steps:
            began = time.monotonic()
            try:
                losses, norm = loop.step(samples, progress.first_step + progress.step)
            except DivergedError:
                self._abandon(loop, progress, fixed)
                raise
            shrunk = loop.micro_batch != progress.micro_batch
            progress = progress.after_step(
                losses, norm, time.monotonic() - began, self._energy.taken()
            ).model_copy(update={"micro_batch": loop.micro_batch, "scaler": loop.scaler_state()})
            if on_step is not None:
                total, count = (sum(x) for x in zip(*losses.values(), strict=True))
                on_step(progress.step, steps, total / count)
            if shrunk or time.monotonic() - saved >= self._checkpoint_s or progress.step == steps:
                self._save(loop, progress, fixed)
                saved = time.monotonic()
            self._pause(time.monotonic() - began)
        return progress

    def _abandon(self, loop: Loop, progress: Progress, fixed: State) -> None:
        """Nobody goes on with this update, and the next one begins without its moments."""
        loop.forget()
        self._save(loop, progress.model_copy(update={"diverged": True}), fixed)

    def _measure_version(self, loop: Loop, progress: Progress, split: Split, version_digest: str) -> Progress:
        """`progress`, with what the version of this digest does before the first step."""
        losses, errors = self._held_out(loop, split, progress.normalisation)
        measured = VersionMeasured(
            digest=version_digest, total_steps=progress.first_step, loss=losses, action_mse=errors
        )
        # Memory may have run out meanwhile: a resumed update goes on with as few frames at once.
        return progress.model_copy(update={"version": measured, "micro_batch": loop.micro_batch})

    def _measured(self, loop: Loop, progress: Progress, split: Split, version_digest: str) -> Measured:
        """What the finished update's header says of it."""
        trainable = number_of(adapter_parameters(self._required_model()))
        held_out = self._held_out(loop, split, progress.normalisation)
        return Measured(datetime.now(UTC), *held_out, trainable, progress.measured_of(version_digest))

    def _held_out(
        self, loop: Loop, split: Split, normalisation: Statistics | None
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Loss and action error per task on the evaluation episodes; empty without any."""
        if not split.eval:
            return {}, {}
        samples = self._samples_of(split, "eval", normalisation)
        return loop.evaluate(samples), loop.action_errors(samples)

    def _prepare(self, recipe: Recipe) -> Loop:
        """The loop for `recipe`, with the moments of the node's previous update where they fit."""
        if self._loop is None or recipe != self._recipe:
            if self._model is not None:
                remove_adapter(self._model)
                self._model = self._loop = None  # the next one may be refused
            self._policy.requires_grad_(False)
            self._model = add_adapter(self._policy, recipe)
            self._policy.eval()  # no dropout anywhere, and frozen layers stay as they are
            self._loop, self._recipe = Loop(self._policy, self._model, recipe, self._node), recipe
            write_trainable(self._folder, adapter_parameters(self._model), self._model)
            if self._last is not None and (why_not := self._loop.restore(self._last[1], parameters=False)):
                logger.info("the optimiser starts afresh: {}", why_not)
        return self._loop

    def _required_model(self) -> PeftModel:
        assert self._model is not None
        return self._model

    def _split(
        self, recipe: Recipe, only: Collection[str] | None = None, on_build: OnBuild | None = None
    ) -> Split:
        """What the update is made from, with the first tier of the cache; its peak of memory counts from
        here."""
        self._memory.reset()
        split = self._episodes.read() if isinstance(self._episodes, EpisodeFolder) else self._episodes
        return chosen(split, recipe, self._cache, only, on_build)

    def _samples_of(self, split: Split, which: str, normalisation: Statistics | None) -> Samples:
        episodes = split.train if which == "train" else split.eval
        key = (which, normalisation, *(episode.digest for episode in episodes))
        if key not in self._samples:
            self._samples = {k: v for k, v in self._samples.items() if k[0] != which}
            preprocess = self._preprocess
            if normalisation is not None:
                preprocess, _ = load_processors(self._base, self._device, normalisation)
            self._samples[key] = Samples(
                episodes, self._cache, preprocess, self._policy.config.chunk_size, self._device
            )
        return self._samples[key]

    def _save(self, loop: Loop, progress: Progress, fixed: State) -> None:
        progress, state = self._with_peak(progress), loop.state() | fixed
        save_checkpoint(self._checkpoint, progress, state)
        self._last = (progress, state)

    def _save_delivered(self, loop: Loop, progress: Progress, fixed: State) -> None:
        """Note that the update lies where it belongs. Where the disk refuses, this process knows it, and the
        next one delivers the same update again."""
        progress = progress.model_copy(update={"delivered": True})
        self._last = (progress, loop.state() | fixed)
        try:
            self._save(loop, progress, fixed)
        except OSError as error:
            logger.bind(update=progress.update_id).warning("it can't be noted as delivered: {}", error)

    def _with_peak(self, progress: Progress) -> Progress:
        """`progress` with the highest memory so far, an earlier process of the same update included."""
        return progress.model_copy(
            update={
                "peak_memory": max(progress.peak_memory, self._memory.resident()),
                "peak_gpu_memory": max(progress.peak_gpu_memory, self._memory.on_gpu()),
            }
        )

    def _pause(self, step_s: float) -> None:
        if self._duty_cycle < 1:
            time.sleep(min(step_s * (1 / self._duty_cycle - 1), MAX_PAUSE_S))
