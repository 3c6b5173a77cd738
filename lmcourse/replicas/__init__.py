"""Replicas: several engines behind one address. Ray Serve runs them; needs the extra: pip install "lmcourse[ray]".

settings       ReplicaSettings, FrontTask       how many, where, and what a front is told
routing        prefix_key, order_replicas       which replica takes a request
messages       Taken, Piece, Refused, Broken    what a replica says while it answers
carried        CarriedOrder                     orders as plain data
replay         Replay                           an answer goes on where another replica stopped
board          Board, Note, add_up              how the replicas are, in one place
engine_replica EngineReplica                    one engine, answering
front_engine   FrontEngine                      an AsyncEngine whose answers come from replicas
front          make_front                       the process that answers HTTP
keeper         Keeper                           starts the front again, replaces replicas
only with Ray: ray_start (found or started) · deployment · serve_router · ray_replicas
"""
