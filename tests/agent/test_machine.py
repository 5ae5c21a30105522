"""What nvidia-smi says is understood, and a machine without one is no error."""

import pytest

from agent.machine import hottest, look, memory_of_others, on_battery


@pytest.mark.parametrize(
    ("told", "degrees"), [("41\n63\n", 63), ("[N/A]\n", None), ("", None), (None, None), ("[N/A]\n55\n", 55)]
)
def test_the_hottest_card_counts(told, degrees):
    assert hottest(told) == degrees


@pytest.mark.parametrize(
    ("told", "megabytes"),
    [("100, 500\n200, 1200\n300, 80\n", 580), ("", 0), ("100, [N/A]\n300, 7\n", 7), (None, None)],
)
def test_the_agents_own_memory_is_not_that_of_others(told, megabytes):
    assert memory_of_others(told, own={200}) == megabytes


BATTERY = {"type": "Battery"}
MOUSE = BATTERY | {"scope": "Device", "status": "Discharging"}
PLUG = {"type": "Mains", "online": "1"}


@pytest.mark.parametrize(
    ("supplies", "draws"),
    [
        ([], None),
        ([MOUSE], None),
        ([BATTERY | {"status": "Discharging"}, PLUG | {"online": "0"}], True),
        ([BATTERY | {"status": "Discharging"}, MOUSE], True),
        ([BATTERY | {"status": "Not charging"}], False),
        ([BATTERY | {"status": "Full"}, PLUG], False),
        ([BATTERY | {"status": "Discharging"}, {"type": "USB", "online": "1"}], False),
    ],
)
def test_a_battery_counts_only_when_the_machine_draws_on_it(tmp_path, supplies, draws):
    for number, words in enumerate(supplies):
        for name, word in words.items():
            file = tmp_path / f"supply{number}" / name
            file.parent.mkdir(exist_ok=True)
            file.write_text(word + "\n")
    assert on_battery(tmp_path) is draws
    assert on_battery(tmp_path / "no such folder") is None


def test_a_machine_without_a_gpu_or_nvidia_smi_tells_its_load(monkeypatch):
    monkeypatch.setenv("PATH", "")
    for gpu in (False, True):
        seen = look(gpu)
        assert seen.load >= 0
        assert (seen.gpu_temperature, seen.gpu_others_mb) == (None, None)


def test_a_card_that_is_busy_is_seen(monkeypatch, tmp_path):
    """A stand-in for nvidia-smi: this machine has no card."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text('#!/bin/sh\ncase "$2" in *temperature*) echo 71;; *) echo "999999, 1500";; esac\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    seen = look(gpu=True)
    assert (seen.gpu_temperature, seen.gpu_others_mb) == (71, 1500)
