"""The shell of this room: all of its sockets, clocks and Kafka. `python -m producers` runs `service.collect`.

    raven.control -> demands -> service -> one Runner per source -> outlet -> Kafka
                                            streams: Links (a connection and its Session each), as many as needed
                                            polls: a task per feed
    gate: what all sources of a venue share, its endpoints and budgets · readback: the last ids that are in Kafka

Backpressure is one flag: while the Outlet is `blocked`, no Link reads its socket, no session's time goes on and nothing
is polled.
"""
