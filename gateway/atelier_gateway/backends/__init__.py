"""The two services over gRPC. Nothing outside this package depends on gRPC or protobuf."""
