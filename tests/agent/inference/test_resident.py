"""A swap is proven or undone; predictions survive bad requests; the proxy never takes a late answer for a new
one."""

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lerobot.policies.rtc.action_queue import ActionQueue
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from lerobot.rollout.inference.rtc import _normalize_prev_actions_length
from safetensors.numpy import save

from agent.inference import proxy as proxy_module
from agent.inference.fault import PolicyFault
from agent.inference.proxy import OBSERVATION_S, RECENT, TAKEN_AT, PolicyProxy, Processed, running
from agent.inference.resident import PolicyServer, ResidentPolicy, is_identity
from shared.adapters import digest, read_adapter, write_adapter
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from sim.lockstep import ChunkQueue

CHUNK = 8
NAME = "base_model.model.model.vlm_with_expert.lm_expert.layers.0.self_attn.q_proj"


class FakePredictor:
    """Actions are the state plus the sum of the adapter's B matrix; `deaf` loads without any effect."""

    def __init__(self):
        self.cameras, self.spread = ("front",), None
        feature = SimpleNamespace(shape=(3, 96, 96))
        self.policy = SimpleNamespace(
            config=SimpleNamespace(image_features={"observation.images.front": feature})
        )
        self.offset, self.deaf, self.delay_s, self.calls, self.wrong = 0.0, False, 0.0, [], False
        self.last = 0.0  # added to the last action's last joint
        self.compared, self.states = [], []
        """How many chunks were computed before each one that both paths compute."""

    def reseed(self, seed):
        pass

    def compare_again(self):
        self.compared.append(len(self.calls))

    def load_version(self, folder):
        self.compared.append(len(self.calls))
        if folder is None:
            self.offset = 0.0
            return None
        tensors, _, _ = read_adapter(folder)
        if not self.deaf:
            self.offset = float(tensors[NAME + ".lora_B.weight"].sum())
        return "0" * 64 if self.wrong else digest(tensors)

    def chunk(self, state, images, tasks, inference_delay=0, prev_chunk=None):
        self.states.append(state)
        self.calls.append((images["front"].shape, images["front"].dtype, inference_delay, prev_chunk))
        time.sleep(self.delay_s)
        original = np.full((len(tasks), CHUNK, 6), self.offset, np.float32)
        original[:, -1, -1] += self.last
        return original, original + state[:, None, :]


def adapter(folder, value):
    folder.mkdir()
    tensors = {
        NAME + ".lora_A.weight": np.ones((2, 4), np.float32),
        NAME + ".lora_B.weight": np.full((4, 2), value, np.float32),
    }
    write_adapter(folder, tensors, {"r": 2}, None)
    return folder, digest(tensors)


@pytest.fixture
def predictor():
    return FakePredictor()


@pytest.fixture
def resident(predictor):
    return ResidentPolicy(predictor)


def actions(resident):
    blob = save({"state": np.zeros(6, np.float32), "image.front": np.zeros((96, 96, 3), np.uint8)})
    fields, answer = resident.predict({"inference_delay": 0, "task": "push"}, blob)
    from safetensors.numpy import load

    return fields, load(answer)["original"]


def test_a_swap_is_live_and_says_by_how_much_the_actions_changed(resident, tmp_path):
    folder, wanted = adapter(tmp_path / "a", 0.5)
    assert resident.swap(3, folder, wanted) == {"version": 3, "digest": wanted, "probe_change": 4.0}
    fields, original = actions(resident)
    assert (fields["version"], fields["digest"], float(original[0, 0])) == (3, wanted, 4.0)
    assert resident.swap(None, None, None)["probe_change"] == 4.0
    assert resident.status() == {"loaded": True, "version": None, "digest": None}


def held_to(resident):
    from safetensors.numpy import load

    blob = save({"state": np.zeros(6, np.float32), "image.front": np.zeros((96, 96, 3), np.uint8)})
    return load(resident.predict({"inference_delay": 0, "task": "push"}, blob)[1])["bounds"]


def test_bounds_are_of_the_version_that_answers_and_of_what_was_recorded_when_it_was_swapped_in(
    predictor, tmp_path
):
    recorded, ramp = [], np.linspace(0, 50, 31, dtype=np.float32)[:, None] * np.ones(6, np.float32)
    resident = ResidentPolicy(predictor, lambda: list(recorded))
    assert np.isinf(held_to(resident)).all()
    recorded.append(ramp)
    assert np.isinf(held_to(resident)).all()
    predictor.spread = (np.zeros(6), np.full(6, 5.0))
    folder, wanted = adapter(tmp_path / "a", 0.5)
    resident.swap(3, folder, wanted)
    wanted_bounds = [[-30.0] * 6, [60.0] * 6, [75.0] * 6]
    assert np.allclose(held_to(resident), wanted_bounds)
    recorded.clear()
    refused(resident, 4, folder, "f" * 64)
    assert np.allclose(held_to(resident), wanted_bounds), "of the version that stayed"


def refused(resident, *swap):
    with pytest.raises(ArmfleetError) as caught:
        resident.swap(*swap)
    assert caught.value.code is ExitCode.VERSION_REFUSED
    assert caught.value.kept == "the adapter that was running"
    return caught.value.what


def test_another_digest_than_the_signed_one_is_refused_and_undone(resident, tmp_path):
    first, first_digest = adapter(tmp_path / "a", 0.5)
    second, _ = adapter(tmp_path / "b", 1.0)
    resident.swap(3, first, first_digest)
    assert "digest" in refused(resident, 4, second, "f" * 64)
    fields, original = actions(resident)
    assert (fields["version"], float(original[0, 0])) == (3, 4.0)


def test_tensors_that_do_not_reach_the_computation_are_refused(resident, predictor, tmp_path):
    first, first_digest = adapter(tmp_path / "a", 0.5)
    second, second_digest = adapter(tmp_path / "b", 1.0)
    resident.swap(3, first, first_digest)
    predictor.deaf = True
    assert "did not change" in refused(resident, 4, second, second_digest)
    assert resident.version == 3


def test_the_same_tensors_again_and_version_zero_may_change_nothing(resident, tmp_path):
    zero, zero_digest = adapter(tmp_path / "zero", 0.0)
    assert is_identity(zero)
    assert resident.swap(0, zero, zero_digest)["probe_change"] == 0.0
    some, some_digest = adapter(tmp_path / "some", 0.5)
    assert not is_identity(some)
    resident.swap(1, some, some_digest)
    assert resident.swap(2, some, some_digest)["probe_change"] == 0.0
    assert resident.version == 2


def test_a_refused_swap_leaves_nothing_to_compare_in_the_next_rollout(resident, predictor, tmp_path):
    folder, _ = adapter(tmp_path / "a", 0.5)
    refused(resident, 3, folder, "f" * 64)
    assert max(predictor.compared) < len(predictor.calls)


def test_both_paths_are_compared_on_the_robots_first_observation_after_its_rollout(
    resident, predictor, tmp_path
):
    def rollout(values):
        for value in values:
            state = np.full(6, value, np.float32)
            blob = save({"state": state, "image.front": np.full((96, 96, 3), value, np.uint8)})
            resident.predict({"inference_delay": 1, "task": "push"}, blob)
        resident.rollout_ended()

    resident.rollout_ended()  # nobody asked for anything
    assert predictor.compared == []
    before = len(predictor.calls)
    rollout([7, 8, 9])
    assert predictor.compared == [before + 3]
    assert float(predictor.states[-1][0, 0]) == 7
    rollout([10])
    assert len(predictor.compared) == 1
    resident.swap(3, *adapter(tmp_path / "a", 0.5))
    predictor.compared.clear()
    rollout([11])
    assert predictor.compared == []


@pytest.fixture
def served(resident, tmp_path):
    server = PolicyServer(resident, tmp_path / "policy.sock")
    threading.Thread(target=server.serve, daemon=True).start()
    yield tmp_path / "policy.sock"
    server.close()


def test_actions_on_the_probe_that_are_no_numbers_are_refused_and_undone(resident, tmp_path):
    first, first_digest = adapter(tmp_path / "a", 0.5)
    second, second_digest = adapter(tmp_path / "b", float("nan"))
    resident.swap(3, first, first_digest)
    assert "finite" in refused(resident, 4, second, second_digest)
    assert (resident.version, float(actions(resident)[1][0, 0])) == (3, 4.0)


def batch(taken_at=0.0):
    return {
        TAKEN_AT: torch.tensor([[taken_at]], dtype=torch.float32),
        "observation.state": torch.arange(6, dtype=torch.float32)[None],
        "observation.images.front": torch.full((1, 3, 96, 96), 128 / 255),
        "task": ["push"],
    }


def test_the_proxy_hands_over_both_forms_of_the_chunk(served, predictor):
    proxy = PolicyProxy(served, "push")
    original = proxy.predict_action_chunk(batch())
    assert original.shape == (1, CHUNK, 6)
    assert torch.equal(Processed(proxy)(original)[0, 0], torch.arange(6, dtype=torch.float32))
    assert predictor.calls[-1] == ((1, 96, 96, 3), np.uint8, 0, None)
    assert len(proxy.latencies) == 1
    assert np.isinf(proxy.bounds.stacked()).all(), "the predictor knows no statistics"
    proxy.close()


def test_the_next_chunk_is_asked_for_with_the_action_being_executed(served, predictor):
    """The engine's left-over begins with the one after it."""
    proxy = PolicyProxy(served, "push")
    left_over = proxy.predict_action_chunk(batch())[0, 3:] + torch.arange(1, 6)[:, None]
    proxy._last[3:] = left_over.numpy()
    proxy.latencies.append(0.15)
    proxy.predict_action_chunk(batch(), inference_delay=2, prev_chunk_left_over=left_over[:4])
    _, _, delay, rest = predictor.calls[-1]
    assert delay == 2
    np.testing.assert_array_equal(rest[0], np.vstack([np.zeros((1, 6)), left_over]))
    proxy.close()


@given(delay=st.integers(0, CHUNK), taken=st.integers(1, CHUNK), horizon=st.integers(1, CHUNK - 1))
def test_on_the_arm_and_in_lockstep_the_same_actions_are_running(delay, taken, horizon):
    chunk = np.random.default_rng(0).normal(size=(CHUNK, 6)).astype(np.float32)
    ours, theirs = ChunkQueue(), ActionQueue(RTCConfig(execution_horizon=horizon))
    ours.replace(chunk[None], chunk[None], delay)
    theirs.merge(torch.from_numpy(chunk), torch.from_numpy(chunk), delay)
    for _ in range(taken):
        ours.pop()
        theirs.get()
    left_over = _normalize_prev_actions_length(theirs.get_left_over(), horizon)
    np.testing.assert_array_equal(running(chunk, left_over.numpy()), ours.running()[0])


def test_a_slow_answer_is_not_taken_for_the_next_one(served, predictor, monkeypatch):
    monkeypatch.setattr(proxy_module, "PREDICT_S", 0.2)
    proxy = PolicyProxy(served, "push")
    predictor.delay_s, predictor.offset = 0.5, 1.0
    with pytest.raises(TimeoutError):
        proxy.predict_action_chunk(batch())
    predictor.delay_s, predictor.offset = 0.0, 2.0
    monkeypatch.setattr(proxy_module, "PREDICT_S", 5.0)
    assert float(proxy.predict_action_chunk(batch())[0, 0, 0]) == 2.0
    proxy.close()


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
def test_one_number_that_is_none_voids_the_chunk_and_all_that_follow_and_names_the_version(
    served, resident, predictor, tmp_path, odd
):
    folder, wanted = adapter(tmp_path / "a", 0.5)
    resident.swap(6, folder, wanted)
    proxy = PolicyProxy(served, "push")
    proxy.predict_action_chunk(batch())
    predictor.last = odd
    with pytest.raises(PolicyFault, match="version 6 gave actions that are not finite"):
        proxy.predict_action_chunk(batch())
    predictor.last = 0.0
    with pytest.raises(PolicyFault):
        proxy.predict_action_chunk(batch())
    assert (proxy.fault.reason, len(proxy.latencies)) == ("bad_actions", 1)
    proxy.close()


def test_the_actions_of_another_version_than_the_first_are_refused(served, resident, tmp_path):
    proxy = PolicyProxy(served, "push")
    proxy.predict_action_chunk(batch())
    folder, wanted = adapter(tmp_path / "a", 0.5)
    resident.swap(6, folder, wanted)
    with pytest.raises(PolicyFault, match="began with the base alone, and version 6 answered"):
        proxy.predict_action_chunk(batch())
    assert (proxy.fault.reason, proxy.version) == ("policy_changed", None)
    proxy.close()


@pytest.mark.parametrize(("age_s", "reaches"), [(OBSERVATION_S - 0.01, True), (OBSERVATION_S + 0.01, False)])
def test_an_old_observation_never_reaches_the_policy(served, predictor, age_s, reaches):
    now = [1e6]
    proxy = PolicyProxy(served, "push", clock=lambda: now[0])
    taken_at = proxy.since_made(now[0])
    now[0] += age_s
    before = len(predictor.calls)
    if reaches:
        proxy.predict_action_chunk(batch(taken_at))
    else:
        with pytest.raises(ArmfleetError, match=r"0\.3 s old"):
            proxy.predict_action_chunk(batch(taken_at))
    assert len(predictor.calls) - before == reaches
    assert proxy.trouble == ("" if reaches else "what the policy was to see was 0.3 s old")
    proxy.close()


def test_one_hiccup_is_forgotten_after_some_chunks(served, predictor):
    proxy = PolicyProxy(served, "push")
    told = []
    for _ in range(RECENT + 2):
        proxy.predict_action_chunk(batch(), inference_delay=9)
        told.append(predictor.calls[-1][2])
        proxy.latencies[-1] = 0.75 if len(proxy.latencies) == 1 else 0.15
    assert told == [0] + [8] * RECENT + [2]
    proxy.close()


def test_hanging_up_ends_a_wait_for_a_policy_that_hangs(served, predictor):
    proxy, failed = PolicyProxy(served, "push"), threading.Event()
    predictor.delay_s = 1.5
    started = time.monotonic()

    def ask():
        with pytest.raises((OSError, ArmfleetError)):
            proxy.predict_action_chunk(batch())
        failed.set()

    thread = threading.Thread(target=ask)
    thread.start()
    while proxy._socket is None:
        time.sleep(0.005)
    proxy.close()
    assert failed.wait(5)
    assert time.monotonic() - started < 1.4
    thread.join(5)


def test_a_refusal_reaches_the_arm_and_the_connection_lives_on(served):
    proxy = PolicyProxy(served, "push")
    with pytest.raises(ArmfleetError, match="malformed"):
        proxy._ask(0, {"something": np.zeros(1, np.float32)})
    assert proxy.predict_action_chunk(batch()).shape == (1, CHUNK, 6)
    proxy.close()


def test_without_a_policy_process_the_proxy_raises_at_once(tmp_path):
    proxy = PolicyProxy(tmp_path / "nobody.sock", "push")
    with pytest.raises(OSError, match="No such file"):
        proxy.predict_action_chunk(batch())
    assert "did not answer" in proxy.trouble


def test_a_socket_left_by_a_killed_process_is_replaced(resident, tmp_path):
    first = PolicyServer(resident, tmp_path / "policy.sock")
    second = PolicyServer(resident, tmp_path / "policy.sock")
    assert (tmp_path / "policy.sock").stat().st_mode & 0o777 == 0o600
    second.close()
    first._socket.close()


def test_the_real_policy_swaps_in_place_and_proves_it(tiny_base, tmp_path):
    from shared.policy.chunker import Chunker
    from shared.policy.initial import initial_adapter
    from shared.recipe import Recipe

    resident = ResidentPolicy(Chunker(tiny_base))
    tensors, config = initial_adapter(tiny_base, Recipe())
    (tmp_path / "zero").mkdir()
    write_adapter(tmp_path / "zero", tensors, config, None)
    assert resident.swap(0, tmp_path / "zero", digest(tensors))["probe_change"] == pytest.approx(0, abs=1e-4)
    rng = np.random.default_rng(0)
    moved = {name: (a + rng.normal(0, 0.1, a.shape)).astype(np.float32) for name, a in tensors.items()}
    (tmp_path / "one").mkdir()
    write_adapter(tmp_path / "one", moved, config, None)
    result = resident.swap(1, tmp_path / "one", digest(moved))
    assert result["digest"] == digest(moved)
    assert result["probe_change"] > 0.01
    resident.swap(None, None, None)
    with pytest.raises(ArmfleetError):
        resident.swap(2, tmp_path / "one", digest(tensors))
    assert resident.version is None
