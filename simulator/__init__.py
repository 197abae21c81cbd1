"""Exchanges that run on loopback: recordings, or synthetic markets, spoken in each venue's own protocol.

contract.py (the Protocols) · dialects/ (one file per venue, pure) · registry.py · server/ (sockets and clocks).
events.py says what happens in a synthetic market, markets/ makes it happen, synthetic.py puts a venue together of it.
Pure beside them: recording.py and sorting.py (files), exchange.py (one venue), playback.py (all on one clock),
books.py, ledger.py; of faults: faults.py (their kinds), chaos.py (plans them), injector.py (puts them), faultlog.py.
"""
