"""One file per venue, each pure; `producers.registry` lists them."""
