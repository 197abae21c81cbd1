"""What every derivation does with a snapshot that it is given."""

import msgspec
import pytest
from msgspec.structs import replace

from processors import derivations
from processors.contract import StateMismatch
from processors.derivations import DERIVATIONS, Derivation, Intake
from ravencore.codec import Codec
from ravencore.config import Settings
from ravencore.records import State

SETTINGS = Settings()
KEYS = {"bars": b"KRAKEN:BTC/USD", "mids": b"BTC-USD", "surfaces": b"BTC"}
every_derivation = pytest.mark.parametrize("made_by", DERIVATIONS.values(), ids=DERIVATIONS)


def new(made_by: Derivation) -> Intake:
    return made_by.intake(Codec(), SETTINGS, "clock")


def state_of(made_by: Derivation, payload: bytes) -> State:
    key = KEYS[made_by.name]
    return State(
        input_topic=made_by.topic,
        input_key=key.decode(),
        input_partitions=6,
        offset=0,
        layout=made_by.layout,
        parameters=made_by.parameters(SETTINGS, key),
        payload=payload,
    )


@every_derivation
@pytest.mark.parametrize("payload", [b"", b"\xff", b"\x01", b"\x93\x01\x02\x03", msgspec.msgpack.encode({"a": 1})])
def test_a_damaged_snapshot_is_refused_with_a_way_out(made_by: Derivation, payload: bytes) -> None:
    with pytest.raises(StateMismatch, match="is damaged: .* `python -m processors reset-state " + made_by.name):
        derivations.restore(made_by, new(made_by), state_of(made_by, payload), SETTINGS, 6)


@pytest.mark.parametrize("parameters", ["[]", "null", "1", "{"])
def test_parameters_that_are_none_are_damage_as_well(parameters: str) -> None:
    made_by = DERIVATIONS["bars"]
    state = replace(state_of(made_by, b""), parameters=parameters)
    with pytest.raises(StateMismatch, match="is damaged"):
        derivations.restore(made_by, new(made_by), state, SETTINGS, 6)


@every_derivation
def test_another_number_of_partitions_is_refused(made_by: Derivation) -> None:
    with pytest.raises(StateMismatch, match=f"when {made_by.topic} had 6 partitions; it has 12 now"):
        derivations.restore(made_by, new(made_by), state_of(made_by, b""), SETTINGS, 12)


@every_derivation
def test_another_layout_is_refused(made_by: Derivation) -> None:
    state = replace(state_of(made_by, b""), layout=made_by.layout + 1)
    with pytest.raises(StateMismatch, match="run the version that wrote it"):
        derivations.restore(made_by, new(made_by), state, SETTINGS, 6)
