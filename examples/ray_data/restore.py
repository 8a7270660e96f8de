"""Restore a folder or bucket of photos on all machines of a Ray cluster.

usage: restore.py PHOTOS RESTORED [HOST:PORT [CALLS_AT_ONCE]]

PHOTOS and RESTORED are folders that every machine sees, or URLs such as s3://bucket/photos. The report, a
JSON object per photo, goes to RESTORED/report.jsonl. Exit code: 1 if a photo was not restored.
"""

import json
import os
import sys

import grpc
import ray
from pyarrow.fs import FileSystem

from atelier.common.v1 import image_pb2
from atelier.restorer.v1 import restorer_service_pb2 as restorer
from atelier.restorer.v1 import restorer_service_pb2_grpc

source, target, *rest = sys.argv[1:]
source, target = (path if "://" in path else os.path.abspath(path) for path in (source, target))
address = rest[0] if rest else "127.0.0.1:50052"
calls_at_once = int(rest[1]) if len(rest) > 1 else 4

RETRIES = {
    "maxAttempts": 5,
    "initialBackoff": "1s",
    "maxBackoff": "30s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
}
CALLS = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [{"name": [{}], "retryPolicy": RETRIES}],
}
OPTIONS = [
    ("grpc.max_receive_message_length", -1),  # gRPC's own limit is 4 MiB; an image is one message
    ("grpc.service_config", json.dumps(CALLS)),
    ("grpc.per_rpc_retry_buffer_size", 2**30),  # a larger request would not be sent again
]


class Restore:
    """A connection to the restorer and to the files. Each actor of Ray has one."""

    def __init__(self):
        self.stub = restorer_service_pb2_grpc.RestorerServiceStub(grpc.insecure_channel(address, OPTIONS))
        self.folder = FileSystem.from_uri(source)[1]
        self.files, self.target = FileSystem.from_uri(target)

    def __call__(self, photo):
        """Restore a photo and write it; return its line of the report."""
        name = photo["path"].removeprefix(self.folder).lstrip("/")
        report = {"input": name, "restored": 0, "faces": 0, "error": ""}
        request = restorer.RestoreFacesRequest(image=image_pb2.Image(data=photo["bytes"]))
        try:
            response = self.stub.RestoreFaces(request, timeout=300)
        except grpc.RpcError as error:
            return report | {"error": error.details()}
        path = f"{self.target}/{name}"
        self.files.create_dir(os.path.dirname(path))
        with self.files.open_output_stream(path) as file:
            file.write(response.image.data)
        restored = sum(face.restored for face in response.faces)
        return report | {"restored": restored, "faces": len(response.faces)}


photos = ray.data.read_binary_files(
    source, include_paths=True, file_extensions=["png", "jpg", "jpeg", "webp"]
)
# The actors only wait for the restorer, which takes hardly any of a core.
actors = ray.data.ActorPoolStrategy(size=calls_at_once)
reports = photos.map(Restore, compute=actors, num_cpus=0.1).iter_rows()

failed = 0
files, folder = FileSystem.from_uri(target)
files.create_dir(folder)
with files.open_output_stream(f"{folder}/report.jsonl") as file:
    for report in reports:
        file.write(json.dumps(report).encode() + b"\n")
        failed += bool(report["error"])
print(f"{failed} photos failed")
sys.exit(failed > 0)
