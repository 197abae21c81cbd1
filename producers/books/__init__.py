"""Order books kept from differences: one sequencer per set of rules, over one ladder of levels."""
