"""The shell of this room: all of its sockets and clocks. Many venues, WebSocket and REST, on one port of loopback.

    player -> venue -> connection       frames: what happens, who listens to it, a client's socket
    clients: greets, hears, keeps alive and lets go those who connect · disturber: faults of whole connections
    pages: what is told under /sim/ · service: puts it together and serves it

Each venue lives under its name: ws://127.0.0.1:PORT/BINANCE_SPOT/ws, http://127.0.0.1:PORT/BINANCE_SPOT/api/v3/time,
and once more, as another route to the same, under BINANCE_SPOT~2.
"""
