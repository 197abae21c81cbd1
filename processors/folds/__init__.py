"""The folds: one file per family of derived streams, all pure; `processors.registry` lists them."""
