"""The two services over gRPC. Past this package, nothing knows gRPC or protobuf."""
