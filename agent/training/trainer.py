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
from collections.abc import Callable, Collection
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
from agent.training.augmentation import with_augmentations
from agent.training.building import OnBuild
from agent.training.cache import TrainingCache
from agent.training.checkpoint import Progress, State, VersionMeasured, load_checkpoint, save_checkpoint
from agent.training.data import EpisodeFolder, Split, without_tasks
from agent.training.energy import GpuEnergy
from agent.training.loop import Loop
from agent.training.memory import PeakMemory
from agent.training.parameters import number_of, write_trainable
from agent.training.precision import Precision, resolve
from agent.training.samples import Samples
from agent.training.update import Measured, Update, make_update
from shared.adapters import Tensors, digest
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
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

Deliver = Callable[[Update], None]
OnStep = Callable[[int, int, float], None]


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
        """The update that a killed process left behind, if any."""
        progress = self._last[0] if self._last else None
        return progress if progress is not None and not progress.delivered else None

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
        check_delay(self._base, recipe)
        split = self._split(recipe, on_build=on_build)
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
        return self._run(loop, progress, fixed, split, deliver, on_step, on_build)

    def resume(
        self,
        deliver: Deliver | None = None,
        on_step: OnStep | None = None,
        on_build: OnBuild | None = None,
    ) -> Update:
        """Finish the update that `unfinished` names.

        Where its episodes are no longer all there, or the base is another one, it starts again from its
        version.

        Raises:
            ArmfleetError: as `train`; also when there is nothing to resume.
        """
        progress = self.unfinished()
        if progress is None or self._last is None:
            raise ArmfleetError("there is no unfinished update to resume")
        _, state = self._last
        fixed: State = {"start": state["start"], "residual": state.get("residual", {})}
        split = self._split(progress.recipe, progress.episodes, on_build)
        by_digest = {episode.digest: episode for episode in split.train}
        loop = self._prepare(progress.recipe)
        unchanged = progress.base_digest == self._base_digest and set(progress.episodes) <= by_digest.keys()
        if not unchanged or not loop.restore(state, parameters=True):
            logger.bind(update=progress.update_id).warning("its episodes or its base changed: started again")
            tensors = {name: tensor.numpy() for name, tensor in state["start"].items()}
            return self.train(
                tensors,
                progress.base_version,
                progress.recipe,
                progress.learning_rate,
                deliver,
                on_step,
                progress.normalisation,
                on_build,
            )
        split = Split(tuple(by_digest[digest] for digest in progress.episodes), split.eval)
        logger.bind(update=progress.update_id).info("resumed at step {}", progress.step)
        return self._run(loop, progress, fixed, split, deliver, on_step, on_build)

    def _run(
        self,
        loop: Loop,
        progress: Progress,
        fixed: State,
        split: Split,
        deliver: Deliver | None,
        on_step: OnStep | None,
        on_build: OnBuild | None,
    ) -> Update:
        """Train, or go on training, one update; `fixed` is what stays in its checkpoints throughout: the
        version's adapter ("start") and what its codec owes from before ("residual")."""
        start, steps = fixed["start"], progress.recipe.steps
        version = digest({name: tensor.numpy() for name, tensor in start.items()}, progress.normalisation)
        self._memory.reset()
        loop.begin(progress, start)
        self._save(loop, progress, fixed)
        self._cache.serve(split, progress.prefixes, on_build)
        if split.eval and progress.version_is_due(version):
            progress = self._measure_version(loop, progress, split, version)
            self._save(loop, progress, fixed)
        samples = self._samples_of(split, "train", progress.normalisation)
        saved = time.monotonic()
        self._energy.begin()
        while progress.step < steps:
            began = time.monotonic()
            losses, norm = loop.step(samples, progress.first_step + progress.step)
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
        trainable = number_of(adapter_parameters(self._required_model()))
        held_out = self._held_out(loop, split, progress.normalisation)
        measured = Measured(datetime.now(UTC), *held_out, trainable, progress.measured_of(version))
        now = {name: tensor.cpu() for name, tensor in loop.state()["now"].items()}
        delta = {name: (now[name] - start[name]).numpy() for name in now}
        wanted = feedback.with_residual(delta, fixed["residual"])
        calibrations = {episode.calibration for episode in split.train}
        progress = self._with_peak(progress)
        examples = len(samples) // (1 + progress.recipe.augmentations)
        update = make_update(progress, self._node, wanted, examples, measured, calibrations)
        residual = feedback.left_out(wanted, update.delta, progress.recipe.codec)
        if deliver is not None:
            deliver(update)
        self._save(loop, progress.model_copy(update={"delivered": True}), fixed | {"residual": residual})
        return update

    def _measure_version(self, loop: Loop, progress: Progress, split: Split, version: str) -> Progress:
        """`progress`, with what the version of this digest does before the first step."""
        losses, errors = self._held_out(loop, split, progress.normalisation)
        measured = VersionMeasured(
            digest=version, total_steps=progress.first_step, loss=losses, action_mse=errors
        )
        # Memory may have run out meanwhile: a resumed update goes on with as few frames at once.
        return progress.model_copy(update={"version": measured, "micro_batch": loop.micro_batch})

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
            self._policy.requires_grad_(False)
            self._model = add_adapter(self._policy, recipe)
            self._policy.eval()  # no dropout anywhere, and frozen layers stay as they are
            self._loop, self._recipe = Loop(self._policy, self._model, recipe, self._node), recipe
            write_trainable(self._folder, adapter_parameters(self._model), self._model)
            if self._last is not None and not self._loop.restore(self._last[1], parameters=False):
                logger.info("the recipe has other modules than the last one: the optimiser starts afresh")
        return self._loop

    def _required_model(self) -> PeftModel:
        assert self._model is not None
        return self._model

    def _split(
        self, recipe: Recipe, only: Collection[str] | None = None, on_build: OnBuild | None = None
    ) -> Split:
        """What trains and what evaluates; of the training episodes `only` these digests, where given: what an
        update does not need is not computed before it goes on."""
        split = self._episodes.read() if isinstance(self._episodes, EpisodeFolder) else self._episodes
        train = without_tasks(split.train, recipe.never_train)
        if left := len(split.train) - len(train):
            logger.warning("{} episodes show tasks that the coordinator keeps unseen: they don't train", left)
        train = with_augmentations(train, recipe.augmentations)
        if only is not None:
            train = [episode for episode in train if episode.digest in only]
        split = self._with_features(Split(tuple(train), split.eval), on_build)
        if not split.train and only is None:
            raise ArmfleetError(
                "there is nothing to train on: no admitted training episode",
                do="record demonstrations; the agent's log says why any were quarantined",
            )
        return split

    def _with_features(self, split: Split, on_build: OnBuild | None) -> Split:
        """`split` with the first tier built; an episode with a damaged video is left out, with the cause in
        the log."""
        damaged: set[str] = set()
        for episode in self._cache.without_features([*split.train, *split.eval], on_build):
            try:
                self._cache.admit(episode)
            except ArmfleetError as error:
                if error.code != ExitCode.EPISODE_DAMAGED:
                    raise
                logger.bind(episode=episode.id).warning("left out of training: {}", error)
                damaged.add(episode.digest)
        return Split(
            tuple(episode for episode in split.train if episode.digest not in damaged),
            tuple(episode for episode in split.eval if episode.digest not in damaged),
        )

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
