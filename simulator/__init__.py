"""Exchanges that run on loopback: recordings, or a synthetic market, spoken in each venue's own protocol.

contract.py (the Protocols) · dialects/ (one file per venue, pure) · registry.py · server.py (sockets and clocks).
Pure beside them: recording.py, synthetic.py, books.py, faults.py, ledger.py, exchange.py.
"""
