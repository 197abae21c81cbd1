"""One file per venue: how it spells frames and answers requests."""
