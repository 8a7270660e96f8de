"""What can be requested and how it is carried out, independent of any protocol.

The dialects in `api` build specs and call this package; `backends` implements what it needs from the
services. Nothing here imports a web framework, pydantic, gRPC or protobuf.
"""
