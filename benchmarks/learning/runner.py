"""One arm with one training seed: walks its course, trains, aggregates, evaluates.

    run = Run(CENTRALISED, seed=0, folder=Path("learning-run"), scale=Scale(), evaluator=evaluator)
    result = run.result()

Everything that takes long lies on disk below `work/` as soon as it is there (updates, evaluations, the
trainers' own checkpoints), versions are computed again from the updates. So a killed run goes on where it
was, unless plan or commit have changed; the folder is removed once the result is written.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.learning.clock import Course, Delivered, Round, course
from benchmarks.learning.demonstrations import Demonstrations
from benchmarks.learning.plan import DELAY_TICKS, FIRST_SCENE, Arm, Scale
from benchmarks.learning.residual import added_to, require_fedavg, residual, summed
from benchmarks.learning.results import Outcomes, Point, Result, commit_of, plan_of, write_result
from benchmarks.learning.updates import StationUpdates
from coordinator.aggregation.mean import Tensors64
from coordinator.aggregation.memory import remembered
from coordinator.aggregation.version import Input, make_version
from coordinator.evaluation.lockstep import Evaluator
from coordinator.exchange.schedule import learning_rate
from shared.adapters import Contribution, Tensors
from shared.files import sha256, write_atomic
from shared.policy.initial import initial_adapter

ROOT = Path(__file__).resolve().parents[2]

Say = Callable[[float, str], None]
"""(share of the arm that is done, what is done now)."""


class Run:
    """An arm in the making.

    Args:
        arm: Within the limits of `scale`.
        seed: Training seed: demonstrations, version 0, samples and noise.
        folder: The run's folder: results, demonstrations, work.
        scale: Scenes.
        evaluator: With the base policy; serves one run after another.
        base: Folder of the base policy.

    Raises:
        ValueError: an arm with `add_residual` that is not synchronous FedAvg.
    """

    def __init__(
        self, arm: Arm, seed: int, folder: Path, scale: Scale, evaluator: Evaluator, base: Path
    ) -> None:
        if arm.add_residual:
            require_fedavg(arm)
        self._arm, self._seed, self._folder, self._scale = arm, seed, folder, scale
        self._evaluator, self._base = evaluator, base
        self._course = course(arm)
        self._recipe = arm.recipe.model_copy(update={"seed": seed})
        self._rule = arm.aggregation.rule()
        self._plan, self._commit = plan_of(arm, scale), commit_of(ROOT)
        digest = sha256(json.dumps([self._plan, self._commit], sort_keys=True).encode())[:8]
        self._work = folder / "work" / f"{arm.name}-{seed}-{digest}"
        tensors, self._peft_config = initial_adapter(base, self._recipe)
        self._versions: list[Tensors] = [tensors]
        self._server_state: dict[str, np.ndarray] = {}
        self._residuals: Tensors64 = {}
        """Of all rounds so far: what the newest version has on top of the base's frozen weights."""
        self._inputs: dict[str, Input] = {}
        self._made_of: list[list[Contribution]] = []
        """Contributions of each version from 1 on."""
        self._stations: dict[str, StationUpdates] = {}

    def result(self, say: Say = lambda _share, _words: None) -> Result:
        """Run the arm, or what is left of it; writes its result.

        Raises:
            ArmfleetError: training diverged.
        """
        self._make_stations(say)
        looked_at = versions_to_look_at(self._course, self._arm.curve)
        curve, events = [], self._course.events
        for done, event in enumerate(events):
            if isinstance(event, Delivered):
                say(done / len(events), f"step {self._steps()} of {self._arm.steps}")
                self._train(event)
                continue
            self._aggregate(event)
            if event.version in looked_at:
                say(done / len(events), f"evaluating version {event.version}")
                outcomes = self._evaluate(event.version, self._scale.curve_scenes)
                curve.append(
                    Point(version=event.version, at=event.at, steps=self._steps(), outcomes=outcomes)
                )
        say(1.0, "evaluating the last version")
        result = self._summary(self._evaluate(self._course.versions, self._scale.scenes), curve)
        write_result(self._folder, result)
        for left in self._work.parent.glob(f"{self._arm.name}-{self._seed}-*"):
            shutil.rmtree(left)
        return result

    def _make_stations(self, say: Say) -> None:
        demonstrations = Demonstrations(self._folder / "demonstrations", self._seed)
        for station in self._arm.stations:
            say(0.0, f"demonstrations of station {station.name}")
            self._stations[station.name] = StationUpdates(
                self._arm,
                station,
                self._recipe,
                self._base,
                demonstrations.split(station),
                self._work / station.name,
            )

    def _train(self, event: Delivered) -> None:
        tensors = self._versions[event.base_version]
        station = self._stations[event.station]
        delta, examples = station.update(
            event.number, tensors, event.base_version, self._rate(event), self._residuals
        )
        self._inputs[event.update_id] = Input(
            update_id=event.update_id,
            node=event.station,
            base_version=event.base_version,
            examples=examples,
            read=lambda: delta,
            read_base=lambda: tensors,
        )

    def _rate(self, event: Delivered) -> float:
        return learning_rate(self._recipe, event.base_version, self._course.versions)

    def _aggregate(self, event: Round) -> None:
        parent = event.version - 1
        inputs = [self._inputs[update_id] for update_id in event.update_ids]
        absent = [self._inputs[update_id] for update_id in self._remembered({item.node for item in inputs})]
        made = make_version(parent, self._versions[parent], self._server_state, inputs, self._rule, absent)
        self._versions.append(made.tensors)
        self._server_state = made.server_state
        self._made_of.append(made.contributions)
        if self._arm.add_residual:
            deltas = [self._inputs[part.update_id].read() for part in made.contributions]
            weights = [part.weight for part in made.contributions]
            found = residual(deltas, weights, self._recipe.alpha / self._recipe.rank)
            self._residuals = summed(self._residuals, found)

    def _remembered(self, present: set[str]) -> list[str]:
        count = self._arm.aggregation.remember_versions
        return remembered(self._made_of[::-1][:count], present)

    def _evaluate(self, version: int, scenes: int) -> Outcomes:
        """Outcomes per task of the first `scenes` scenes."""
        path = self._work / "evaluations" / f"{version}-{scenes}.json"
        if path.exists():
            return json.loads(path.read_text())
        chunker = self._evaluator.chunker
        if self._arm.stations:
            chunker.load_tensors(self._versions[version], self._peft_config, delay=self._recipe.delay)
        else:
            chunker.load_version(None)
        tasks = [asked.task for asked in self._arm.tasks]
        seeds = range(FIRST_SCENE, FIRST_SCENE + scenes)
        with added_to(chunker.policy, self._residuals):
            found = self._evaluator.evaluate_loaded(tasks, seeds, DELAY_TICKS)
        outcomes = {task: "".join(map(str, row)) for task, row in found.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(outcomes))
        return outcomes

    def _steps(self) -> int:
        """Gradient steps in the versions so far."""
        return len(self._contributions()) * self._recipe.steps

    def _contributions(self) -> list[Contribution]:
        return [part for contributions in self._made_of for part in contributions]

    def _summary(self, outcomes: Outcomes, curve: list[Point]) -> Result:
        weights: dict[str, float] = {}
        contributions = self._contributions()
        for part in contributions:
            weights[part.node] = weights.get(part.node, 0.0) + part.weight
        return Result(
            arm=self._arm.name,
            mode=self._arm.mode,
            seed=self._seed,
            commit=self._commit,
            plan=self._plan,
            first_scene=FIRST_SCENE,
            outcomes=outcomes,
            curve=curve,
            versions=self._course.versions,
            steps=self._steps(),
            seconds=max((event.at for event in self._course.events), default=0.0),
            updates=dict(Counter(part.node for part in contributions)),
            weights=weights,
            staleness=dict(sorted(Counter(part.staleness for part in contributions).items())),
            bytes_sent=sum(station.bytes_sent for station in self._stations.values()),
            left=len(self._course.left),
        )


def versions_to_look_at(course: Course, count: int) -> set[int]:
    """`count` version numbers, evenly spaced, the last one included; all of them where there are fewer."""
    return {round(share * course.versions) for share in np.linspace(0, 1, count + 1)[1:]} - {0}
