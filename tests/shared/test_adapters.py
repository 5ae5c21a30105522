import re

import numpy as np
import pytest
from safetensors.numpy import save

from shared.adapters import (
    PACKED,
    Contribution,
    Manifest,
    check_size,
    digest,
    pack_adapter,
    read_adapter,
    unpack_adapter,
    write_adapter,
)
from shared.codec import encode
from shared.errors import ArmfleetError
from shared.limits import MAX_NUMBERS, MAX_UPDATE_BYTES
from shared.normalisation import measured
from shared.recipe import Recipe

TENSORS = {
    "base_model.model.q.lora_A.weight": np.arange(12, dtype=np.float32).reshape(2, 6),
    "base_model.model.q.lora_B.weight": np.zeros((6, 2), np.float32),
}
PEFT = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
STATISTICS = measured(*np.random.default_rng(0).normal(0, 30, (2, 200, 6)))


def manifest(tensors=TENSORS, normalisation=None):
    return Manifest(
        version=3,
        parent=2,
        base_digest="0" * 64,
        tensors_digest=digest(tensors, normalisation),
        recipe=Recipe(),
        normalisation=normalisation,
        created="2026-01-01T00:00:00Z",
    )


def adapter_of(rank):
    """Preset `expert`: 3.37 million numbers in factors at rank 16, 54 thousand in whole modules."""
    zero = np.zeros(1, np.float32)
    shapes = {"m.lora_A.weight": (rank, 105_300), "m.lora_B.weight": (105_300, rank), "p.weight": (54_000,)}
    return {name: np.broadcast_to(zero, shape) for name, shape in shapes.items()}


def test_an_adapter_that_no_check_in_has_room_for_is_refused_with_the_rank_that_fits():
    check_size(adapter_of(16), 16)
    with pytest.raises(ArmfleetError, match=r"13\.5 million numbers: .* 108 MB, at most 67 MB") as caught:
        check_size(adapter_of(64), 64)
    fits = int(re.search(r"rank to (\d+) or less", caught.value.do)[1])
    check_size(adapter_of(fits), fits)
    with pytest.raises(ArmfleetError):
        check_size(adapter_of(fits + 1), fits + 1)
    with pytest.raises(ArmfleetError) as caught:
        check_size({"p.weight": np.broadcast_to(np.zeros(1, np.float32), (9_000_000,))}, 16)
    assert "rank to" not in caught.value.do, "no rank fits"


@pytest.mark.parametrize("codec", ["fp16-zstd", "int4-zstd"])
def test_the_largest_adapter_has_an_update_that_can_be_sent(codec):
    """At a hundredth of the size, with numbers that can't be compressed."""
    numbers = MAX_NUMBERS // 100
    bits = np.random.default_rng(0).integers(0, 0x7C00, numbers, np.uint16).view(np.float16)
    update = encode({"m.lora_A.weight": bits.astype(np.float32)}, codec)
    assert len(update) < MAX_UPDATE_BYTES // 100


def test_a_version_is_trained_for_a_delay_once_updates_went_into_it():
    recipe = Recipe(delay=3)
    first = manifest().model_copy(update={"recipe": recipe})
    part = Contribution(update_id="u", node="a", weight=1.0, staleness=0)
    assert (first.delay, first.model_copy(update={"contributions": [part]}).delay) == (0, 3)
    assert Manifest.model_validate_json(first.model_dump_json()).recipe.delay == 3


def test_digest_depends_on_names_shapes_and_bytes_only():
    assert digest(TENSORS) == digest(dict(reversed(TENSORS.items())))
    for change in (
        {**TENSORS, "more": np.zeros(1, np.float32)},
        {name: array.reshape(-1) for name, array in TENSORS.items()},
        {name: np.nextafter(array, np.float32(1e9), dtype=np.float32) for name, array in TENSORS.items()},
    ):
        assert digest(change) != digest(TENSORS)


def test_a_packed_adapter_unpacks_to_the_same_folder(tmp_path):
    first, second, file = tmp_path / "a", tmp_path / "b", tmp_path / "packed"
    first.mkdir()
    second.mkdir()
    write_adapter(first, TENSORS, PEFT, manifest())
    file.write_bytes(pack_adapter(first))
    assert unpack_adapter(file, second) == manifest()
    tensors, config, read = read_adapter(second)
    assert digest(tensors) == digest(TENSORS)
    assert (config, read) == (PEFT, manifest())


def test_a_version_packs_to_the_same_bytes_each_time(tmp_path):
    """What is signed must not change with each look: it would be signed and sent anew."""
    write_adapter(tmp_path, TENSORS, PEFT, manifest())
    assert len({pack_adapter(tmp_path) for _ in range(20)}) == 1


def test_tensors_other_than_the_manifest_names_are_refused(tmp_path):
    write_adapter(tmp_path, TENSORS, PEFT, manifest({"other": np.ones(1, np.float32)}))
    with pytest.raises(ArmfleetError, match="not those its manifest names"):
        read_adapter(tmp_path)


def test_a_damaged_file_is_refused_with_a_sentence(tmp_path):
    write_adapter(tmp_path, TENSORS, PEFT, manifest())
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:50])
    with pytest.raises(ArmfleetError, match="can't be read"):
        read_adapter(tmp_path)
    for content in (
        b"no adapter",
        save(TENSORS),
        save(TENSORS, {PACKED: "[]"}),
        save(TENSORS, {PACKED: "{}"}),
    ):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(ArmfleetError, match="no packed adapter"):
            unpack_adapter(tmp_path / "x", tmp_path)


def test_a_manifest_without_statistics_is_written_as_before_there_were_any():
    assert "normalisation" not in manifest().model_dump_json()
    assert "normalisation" not in manifest().model_dump(mode="json")


def test_statistics_travel_with_the_adapter_and_count_for_its_digest(tmp_path):
    first, second, file = tmp_path / "a", tmp_path / "b", tmp_path / "packed"
    first.mkdir()
    second.mkdir()
    written = manifest(normalisation=STATISTICS)
    assert written.tensors_digest != manifest().tensors_digest
    write_adapter(first, TENSORS, PEFT, written)
    file.write_bytes(pack_adapter(first))
    unpack_adapter(file, second)
    assert read_adapter(second)[2] == written


def test_statistics_other_than_those_that_were_signed_are_refused(tmp_path):
    other = measured(*np.random.default_rng(1).normal(0, 30, (2, 200, 6)))
    changed = manifest(normalisation=STATISTICS).model_copy(update={"normalisation": other})
    write_adapter(tmp_path, TENSORS, PEFT, changed)
    with pytest.raises(ArmfleetError, match="not those its manifest names"):
        read_adapter(tmp_path)
