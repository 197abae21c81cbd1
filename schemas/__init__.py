"""The language on the wire: one .avsc per record, and the ids they are pinned to (pins.json). No logic."""
